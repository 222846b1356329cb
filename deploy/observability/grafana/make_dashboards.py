#!/usr/bin/env python3
"""Writes moed-service.json and moed-experts.json beside itself. Usage: make_dashboards.py [--check]

The dashboards are made, not drawn, so that all panels look and filter alike. --check writes nothing and fails when a file
is not what this script makes.
"""
import json
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WHERE = 'model_name=~"$model",instance=~"$instance"'  # stands for W in the queries below
WIDTH = 24


def target(expr, legend, index, instant=False):
    return {"datasource": SOURCE, "expr": expr.replace("W", WHERE), "legendFormat": legend, "refId": chr(ord("A") + index),
            "instant": instant, "range": not instant}


def panel(kind, title, queries, unit, width, height, description, options=None, defaults=None):
    return {"type": kind, "title": title, "description": description, "datasource": SOURCE,
            "targets": [target(expr, legend, i, kind == "stat") for i, (expr, legend) in enumerate(queries)],
            "fieldConfig": {"defaults": {"unit": unit, **(defaults or {})}, "overrides": []}, "options": options or {},
            "gridPos": {"w": width, "h": height}}


def graph(title, queries, unit="short", width=8, description="", stacked=False, maximum=None):
    custom = {"lineWidth": 1, "fillOpacity": 60 if stacked else 8, "showPoints": "never", "spanNulls": True}
    if stacked:
        custom["stacking"] = {"mode": "normal", "group": "A"}
    defaults = {"custom": custom, "min": 0}
    if maximum is not None:
        defaults["max"] = maximum
    return panel("timeseries", title, queries, unit, width, 8, description,
                 {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}}, defaults)


def stat(title, expr, unit="short", description="", steps=None, mappings=None):
    thresholds = {"mode": "absolute", "steps": steps or [{"color": "blue", "value": None}]}
    return panel("stat", title, [(expr, "")], unit, 3, 4, description,
                 {"colorMode": "value", "graphMode": "area", "reduceOptions": {"calcs": ["lastNotNull"]}},
                 {"thresholds": thresholds, "mappings": mappings or []})


def row(title):
    return {"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": {"w": WIDTH, "h": 1}}


def above(*limits):
    """Colours by rising limits: green, then yellow, then red."""
    return [{"color": color, "value": value} for color, value in zip(("green", "yellow", "red"), (None, *limits))]


def below(red, yellow):
    return [{"color": "red", "value": None}, {"color": "yellow", "value": red}, {"color": "green", "value": yellow}]


def rate(metric, by="", where="W"):
    by = f" by ({by})" if by else ""
    return f"sum{by} (rate({metric}{{{where}}}[$__rate_interval]))"


def quantiles(metric, by="", where="W", of=(0.5, 0.9, 0.99)):
    """(expr, legend) of quantiles of a histogram; `by` splits it further."""
    labels = f"le, {by}" if by else "le"
    suffix = " {{" + by + "}}" if by else ""
    return [(f"histogram_quantile({q}, sum by ({labels}) (rate({metric}_bucket{{{where}}}[$__rate_interval])))", f"p{q * 100:g}{suffix}")
            for q in of]


def mean(metric, by="", where="W"):
    return f"{rate(metric + '_sum', by, where)} / {rate(metric + '_count', by, where)}"


def service():
    up = [{"type": "value", "options": {"0": {"text": "no", "color": "red"}, "1": {"text": "yes", "color": "green"}}}]
    return [
        row("Now"),
        stat("Serving", 'min(moed_serving_state{W,state="serving"})', mappings=up),
        stat("Generated tokens/s", rate("moed_generation_tokens_total")),
        stat("Running", "sum(moed_requests_running{W})", description="Sequences being computed."),
        stat("Waiting", "sum(moed_requests_waiting{W})", steps=above(1, 100)),
        stat("KV cache", "max(moed_kv_cache_usage_ratio{W})", "percentunit", steps=above(0.8, 0.95)),
        stat("First token p99", quantiles("moed_time_to_first_token_seconds", of=(0.99,))[0][0], "s", steps=above(2, 10)),
        stat("Between tokens p99", quantiles("moed_inter_token_latency_seconds", of=(0.99,))[0][0], "s", steps=above(0.2, 0.5)),
        stat("Failed requests", 'sum(rate(moed_requests_total{W,finish_reason="error"}[$__rate_interval])) '
             "/ sum(rate(moed_requests_total{W}[$__rate_interval]))", "percentunit", steps=above(0.001, 0.02)),
        row("Traffic"),
        graph("Tokens per second", [(rate("moed_generation_tokens_total"), "generated"), (rate("moed_prompt_tokens_total"), "of prompts")]),
        graph("Sequences", [("sum(moed_requests_running{W})", "running"), ("sum(moed_requests_waiting{W})", "waiting")]),
        graph("Requests per second by end", [(rate("moed_requests_total", "finish_reason"), "{{finish_reason}}")], "reqps", stacked=True),
        graph("Refused per second by reason", [(rate("moed_admission_rejected_total", "reason"), "{{reason}}")], "reqps"),
        graph("Tokens of a request, mean", [(mean("moed_request_prompt_tokens"), "prompt"), (mean("moed_request_generation_tokens"), "generated")]),
        graph("Prompt tokens found in the prefix cache",
              [(f"{rate('moed_prefix_cache_hits_total')} / {rate('moed_prefix_cache_queries_total')}", "found")], "percentunit", maximum=1),
        row("Latency"),
        graph("Time to first token", quantiles("moed_time_to_first_token_seconds"), "s"),
        graph("Between tokens", quantiles("moed_inter_token_latency_seconds"), "s"),
        graph("Whole request", quantiles("moed_e2e_request_latency_seconds"), "s"),
        graph("Parts of a request, mean", [(mean(f"moed_request_{part}_time_seconds"), part) for part in ("queue", "prefill", "decode")], "s",
              stacked=True),
        graph("Time per output token of a request", quantiles("moed_request_time_per_output_token_seconds"), "s"),
        graph("gRPC handling p99 by method", quantiles("moed_grpc_server_handling_seconds", "grpc_method", of=(0.99,)), "s"),
        row("Steps and memory"),
        graph("Step time, mean by phase", [(mean("moed_step_duration_seconds", "phase"), "{{phase}}")], "s"),
        graph("Steps per second by phase", [(rate("moed_step_duration_seconds_count", "phase"), "{{phase}}")], "ops", stacked=True),
        graph("Tokens of a step, mean by phase", [(mean("moed_step_tokens", "phase"), "{{phase}}")]),
        graph("Planning a step", quantiles("moed_step_plan_seconds", of=(0.5, 0.99)), "s"),
        graph("KV cache by rank", [("moed_rank_kv_cache_usage_ratio{W}", "rank {{ep_rank}}")], "percentunit", maximum=1),
        graph("Preemptions per second", [(rate("moed_preemptions_total"), "preempted")]),
        row("Daemon and ranks"),
        graph("Ranks up", [("moed_rank_up{W}", "rank {{ep_rank}}")], maximum=1),
        graph("Engine restarts in an hour", [("increase(moed_group_restarts_total{W}[1h])", "{{instance}}")]),
        graph("Memory of the ranks", [("sum by (kind) (moed_rank_memory_bytes{W})", "{{kind}}")], "bytes", stacked=True),
        graph("CPU of the daemon", [("rate(process_cpu_seconds_total{W}[$__rate_interval])", "{{instance}}")], "percentunit"),
        graph("Memory of the daemon", [("process_resident_memory_bytes{W}", "{{instance}}")], "bytes"),
        graph("gRPC calls per second by code", [(rate("moed_grpc_server_handled_total", "grpc_code"), "{{grpc_code}}")], "ops", stacked=True),
    ]


def experts():
    stages = rate("moed_step_stage_seconds_total", "stage") + " / ignoring(stage) group_left " + rate("moed_step_stage_seconds_total")
    rows = "sum by (ep_rank) (rate(moed_moe_rank_tokens_total{W}[$__rate_interval]))"
    waits = "sum by (ep_rank) (rate(moed_moe_rank_wait_seconds_total{W}[$__rate_interval]))"
    exchange = 'sum(rate(moed_step_stage_seconds_total{W,stage=~"dispatch|combine"}[$__rate_interval]))'
    return [
        row("Balance of the ranks"),
        stat("Balancedness", f"avg({rows}) / max({rows})", "percentunit", "Mean / max of rows per rank; 100 % is perfect.", below(0.6, 0.85)),
        stat("Exchange", f"{exchange} / {rate('moed_step_stage_seconds_total')}", "percentunit",
             "Part of the step time in dispatch and combine, waiting included.", above(0.25, 0.5)),
        stat("Waiting", f"{rate('moed_moe_rank_wait_seconds_total')} / {rate('moed_step_stage_seconds_total')}", "percentunit",
             "Part of the step time in which a rank waits for slower ones.", above(0.1, 0.3)),
        stat("Exchanged", rate("moed_moe_all2all_bytes_total"), "Bps"),
        stat("Rows per second", rate("moed_moe_rank_tokens_total"), description="Rows computed by experts; top_k and layers multiply tokens."),
        stat("Hottest expert", "max(moed_moe_top_expert_share{W,top=\"1\"})", "percentunit", "Share of its layer's rows."),
        stat("Ranks", "count(moed_rank_up{W})"),
        stat("Placement", "max(moed_eplb_placement_version{W})", description="Epoch of the expert placement in use."),
        graph("Rows per second by rank", [(rows, "rank {{ep_rank}}")]),
        graph("Balancedness of steps by phase", [("avg by (phase) (moed_moe_balancedness_ratio{W})", "{{phase}}")], "percentunit", maximum=1,
              description="Of the last step of each phase."),
        graph("Waiting for the slowest rank", [(f"{waits} / sum by (ep_rank) (rate(moed_step_stage_seconds_total{{W}}[$__rate_interval]))",
              "rank {{ep_rank}}")], "percentunit", description="The rank that waits least is the one that the others wait for."),
        row("Experts"),
        graph("Imbalance of a layer over ranks (max / mean)", quantiles("moed_moe_imbalance_ratio", where='W,scope="rank"', of=(0.5, 0.99))),
        graph("Imbalance of a layer over experts (max / mean)", quantiles("moed_moe_imbalance_ratio", where='W,scope="expert"', of=(0.5, 0.99))),
        graph("Balancedness by layer", [("moed_moe_layer_balancedness_ratio{W}", "layer {{layer}}")], "percentunit", maximum=1,
              description="Over the last ten seconds."),
        graph("Busiest expert of each layer", [('moed_moe_top_expert_share{W,top="1"}', "layer {{layer}}")], "percentunit",
              description="Share of the layer's rows over the last ten seconds; moedctl experts says which expert it is."),
        graph("Rows on the eight busiest experts", [("avg by (top) (moed_moe_top_expert_share{W})", "#{{top}}")], "percentunit", stacked=True,
              description="Mean over layers."),
        graph("Copies of an expert", [("max by (stat) (moed_expert_replicas{W})", "{{stat}}")]),
        row("Exchange"),
        graph("Dispatch and combine, mean of a step", [(mean("moed_moe_all2all_seconds", "op, phase"), "{{op}} {{phase}}")], "s"),
        graph("Dispatch and combine p99 by phase", quantiles("moed_moe_all2all_seconds", "phase", of=(0.99,)), "s"),
        graph("Waiting in them, mean of a step", [(mean("moed_moe_all2all_wait_seconds", "op, phase"), "{{op}} {{phase}}")], "s"),
        graph("Waiting by rank and operation", [(rate("moed_moe_rank_wait_seconds_total", "ep_rank, op"), "rank {{ep_rank}} {{op}}")], "percentunit",
              description="Seconds of waiting in a second."),
        graph("Bytes per second", [(rate("moed_moe_all2all_bytes_total", "op"), "{{op}}")], "Bps", stacked=True),
        graph("Waiting part of the exchange by phase", [(f"{rate('moed_moe_all2all_wait_seconds_sum', 'phase')} / "
              f"{rate('moed_moe_all2all_seconds_sum', 'phase')}", "{{phase}}")], "percentunit", maximum=1),
        row("Where step time goes"),
        graph("Stages, part of the step time", [(stages, "{{stage}}")], "percentunit", 12, stacked=True, maximum=1),
        graph("Stages by phase, seconds of all ranks in a second", [(rate("moed_step_stage_seconds_total", "phase, stage"), "{{phase}} {{stage}}")], "s",
              12, stacked=True),
        graph("Experts' products p99 by phase", quantiles("moed_moe_expert_gemm_seconds", "phase", of=(0.99,)), "s"),
        graph("Routers p99 by phase", quantiles("moed_moe_route_seconds", "phase", of=(0.99,)), "s"),
        graph("Step time p99 by phase", quantiles("moed_step_duration_seconds", "phase", of=(0.99,)), "s"),
    ]


def variable(name, label, query):
    return {"name": name, "label": label, "type": "query", "datasource": SOURCE, "query": {"query": query, "refId": "A"}, "definition": query,
            "includeAll": True, "multi": True, "allValue": ".*", "current": {"text": "All", "value": "$__all"}, "refresh": 2, "sort": 1}


def place(panels):
    """Gives panels their ids and places: left to right, a row's title on a line of its own."""
    x = y = height = 0
    for number, item in enumerate(panels, 1):
        at = item["gridPos"]
        if x + at["w"] > WIDTH:
            x, y, height = 0, y + height, 0
        item["id"] = number
        at["x"], at["y"] = x, y
        x, height = x + at["w"], max(height, at["h"])
    return panels


def dashboard(uid, title, panels):
    return {"uid": uid, "title": title, "tags": ["moed"], "schemaVersion": 38, "version": 1, "editable": True, "refresh": "10s",
            "time": {"from": "now-30m", "to": "now"}, "timezone": "browser", "graphTooltip": 1,
            "links": [{"type": "dashboards", "tags": ["moed"], "title": "moed", "asDropdown": False, "includeVars": True, "keepTime": True}],
            "templating": {"list": [
                {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "current": {}},
                variable("model", "Model", "label_values(moed_build_info, model_name)"),
                variable("instance", "Instance", 'label_values(moed_build_info{model_name=~"$model"}, instance)')]},
            "panels": place(panels)}


def main():
    check = sys.argv[1:] == ["--check"]
    stale = []
    for name, title, panels in (("moed-service", "moed / Service", service()), ("moed-experts", "moed / Experts and exchange", experts())):
        path = HERE / f"{name}.json"
        text = json.dumps(dashboard(name, title, panels), indent=1) + "\n"
        if not check:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            stale.append(path.name)
    if stale:
        sys.exit(f"make_dashboards: {', '.join(stale)}: not what this script makes; run it without --check")


if __name__ == "__main__":
    main()
