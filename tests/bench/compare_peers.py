"""Runs moed-bench and other engines in turn (A B A B) on one shape and prints the ratios.

Called by compare_peers.sh. Every engine gets random tokens, the same number of threads and random
weights of the same shape. A figure is the median over all samples of all rounds, its spread
(max - min) / median. What could not be measured is listed at the end, and the exit status is 1.
"""

import argparse
import json
import os
import pathlib
import shlex
import shutil
import statistics
import sys

from peer_runs import GGUF_TYPES, CannotRun, Moed, Peer, Runner, Setup, Test

EPILOG = """The file of --peers is a JSON list of objects with the keys name, llama_bench,
batched_bench, gguf ({type} becomes bf16, q8_0 or q4_0, {shape} the name of the config's folder)
and, if wanted, bench_args and batched_args (lists of further arguments); or name and command (a
list), for a program with the flags and the JSON of moed-bench, such as vllm_bench.py."""


def int_list(text):
    return tuple(int(part) for part in text.split(","))


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog=EPILOG)
    add = parser.add_argument
    add("--config", required=True, help="config.json of the shape")
    add("--dtype", default="bf16", help=f"some of {','.join(GGUF_TYPES)}, with commas")
    add("--moed-bench", default=os.environ.get("MOED_BENCH", "moed-bench"))
    add("--moed-args", default="", help="further arguments for moed-bench, in one string")
    add("--peers", default=os.environ.get("MOED_PEERS"), help="JSON file of peers, see below")
    add("--llama-bench", default=os.environ.get("LLAMA_BENCH"), help="one peer without a file")
    add("--batched-bench", default=os.environ.get("LLAMA_BATCHED_BENCH"))
    add("--gguf", default=os.environ.get("LLAMA_GGUF"), help="weights for that one peer")
    add("--threads", type=int, default=2)
    add("--prefill", type=int, default=512, help="tokens of the prefill test; 0: no such test")
    add("--prompt", type=int, default=128, help="prompt tokens before a generation test")
    add("--generate", type=int, default=64, help="tokens of each sequence of a generation test")
    add("--batches", type=int_list, default=(1, 16, 32))
    add("--prompts", choices=["own", "shared", "both"], default="both")
    add("--repetitions", type=int, default=3, help="rounds A B A B")
    add("--samples", type=int, default=2, help="samples of each process")
    add("--timeout", type=float, default=900, help="seconds for each process")
    add("--runner", default="", help="put before every command, e.g. 'taskset -c 0,1'")
    add("--raw", help="folder that keeps what every process printed")
    add("--json", help="file to write the figures to")
    add("--markdown", help="file to write the table to")
    return parser.parse_args()


def make_engines(args, runner):
    specs = []
    if args.peers:
        specs = json.loads(pathlib.Path(args.peers).read_text(encoding="utf-8"))
    if args.llama_bench:
        if not (args.batched_bench and args.gguf):
            sys.exit("--llama-bench needs --batched-bench and --gguf")
        one = {"name": "llama.cpp", "llama_bench": args.llama_bench}
        specs.append({**one, "batched_bench": args.batched_bench, "gguf": args.gguf})
    engines = []
    if shutil.which(args.moed_bench):
        command = [args.moed_bench, "--no-ceilings", *shlex.split(args.moed_args)]
        engines.append(Moed("moed", command, runner))
    for spec in specs:
        is_llama = "llama_bench" in spec
        engines.append(
            Peer(spec, runner) if is_llama else Moed(spec["name"], spec["command"], runner)
        )
    return engines


def make_tests(args):
    tests = []
    if args.prefill > 0:
        tests.append(Test("prefill", args.prefill, 0, (1,), False))
    if args.prompts != "shared":
        tests.append(Test("generation", args.prompt, args.generate, args.batches, False))
    # A single sequence shares its prompt with nobody.
    several = tuple(batch for batch in args.batches if batch > 1)
    if args.prompts != "own" and several:
        tests.append(Test("generation", args.prompt, args.generate, several, True))
    return tests


class Figures:
    """Samples by dtype, test, batch and engine, and what is missing. Owned by main."""

    def __init__(self):
        self.samples = {}  # (dtype, kind, batch, shared_prompt) -> engine -> tokens per second
        self.distinct = {}  # the same keys -> distinct experts, as moed reports them
        self.problems = {}  # (dtype, test, engine) -> reason

    def measure(self, engine, test, dtype):
        if (dtype, test, engine.name) in self.problems:
            return
        try:
            rows = engine.run(test, dtype)
        except CannotRun as reason:
            self.problems[dtype, test, engine.name] = str(reason)
            print(f"!! {describe(dtype, test)}: {engine.name}: {reason}", file=sys.stderr)
            return
        for row in rows:
            key = (dtype, row.kind, row.batch, row.shared_prompt)
            self.samples.setdefault(key, {}).setdefault(engine.name, []).extend(row.samples)
            if row.distinct_experts is not None:
                self.distinct[key] = row.distinct_experts


def describe(dtype, test):
    what = f"prefill {test.prompt}"
    if test.kind == "generation":
        prompts = "a shared prompt" if test.shared_prompt else "prompts of their own"
        what = f"generation with {prompts}, batches {', '.join(map(str, test.batches))}"
    return f"{dtype} {what}"


def measure_all(args, engines, tests):
    figures = Figures()
    for dtype in args.dtype.split(","):
        if dtype not in GGUF_TYPES:
            sys.exit(f"--dtype is {dtype}, expected some of {', '.join(GGUF_TYPES)}")
        for test in tests:
            for repetition in range(args.repetitions):
                for engine in engines:
                    print(f"{describe(dtype, test)}: {engine.name}, round {repetition + 1}",
                          file=sys.stderr)
                    figures.measure(engine, test, dtype)
    return figures


def uniform_experts(config_json, num_tokens):
    """Distinct experts that uniform routing chooses: E (1 - (1 - K / E)^n)."""
    config = json.loads(pathlib.Path(config_json).read_text(encoding="utf-8"))
    experts = config.get("num_experts") or config["num_local_experts"]
    return experts * (1 - (1 - config["num_experts_per_tok"] / experts) ** num_tokens)


def summary(samples):
    median = statistics.median(samples)
    spread = (max(samples) - min(samples)) / median
    return {"median": median, "spread": spread, "samples": samples}


def make_report(args, figures):
    rows = []
    for (dtype, kind, batch, shared), by_engine in figures.samples.items():
        engines = {name: summary(samples) for name, samples in by_engine.items()}
        peers = [entry["median"] for name, entry in engines.items() if name != "moed"]
        ratio = engines["moed"]["median"] / max(peers) if peers and "moed" in engines else None
        tokens_per_step = args.prefill if kind == "prefill" else batch
        rows.append({
            "dtype": dtype, "test": kind, "batch": batch, "shared_prompt": shared,
            "engines": engines, "ratio_to_best_peer": ratio,
            "distinct_experts": figures.distinct.get((dtype, kind, batch, shared)),
            "uniform_distinct_experts": uniform_experts(args.config, tokens_per_step),
        })
    missing = [
        {"test": describe(dtype, test), "engine": engine, "reason": reason}
        for (dtype, test, engine), reason in figures.problems.items()
    ]
    if not any("moed" in by_engine for by_engine in figures.samples.values()):
        reason = f"no figures of {args.moed_bench}: there is nothing to compare the peers with"
        missing.insert(0, {"test": "everything", "engine": "moed", "reason": reason})
    settings = {key: value for key, value in vars(args).items() if key not in ("json", "markdown")}
    return {"settings": settings, "results": rows, "missing": missing}


def speed_cell(entry):
    if entry is None:
        return "MISSING"
    return f"{entry['median']:.1f} ±{entry['spread'] * 50:.0f}%"


def table_cells(report, names):
    yield ["dtype", "test"] + [f"{name} tok/s" for name in names] + ["ratio", "experts/layer"]
    for row in report["results"]:
        test = "prefill"
        if row["test"] == "generation":
            test = f"B={row['batch']}" + (" shared prompt" if row["shared_prompt"] else "")
        cells = [row["dtype"], test]
        for name in names:
            cells.append(speed_cell(row["engines"].get(name)))
        ratio, distinct = row["ratio_to_best_peer"], row["distinct_experts"]
        cells.append(f"{ratio:.2f}" if ratio is not None else "-")
        seen = f"{distinct:.1f}" if distinct is not None else "?"
        yield cells + [f"{seen} of {row['uniform_distinct_experts']:.1f}"]


def format_markdown(report, names):
    lines = ["| " + " | ".join(cells) + " |" for cells in table_cells(report, names)]
    lines.insert(1, "|---" * (len(names) + 4) + "|")
    return "\n".join(lines) + "\n"


def format_text(report, names):
    rows = list(table_cells(report, names))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths)) for row in rows]
    lines.append("tok/s: median, ± half of (max - min); ratio: moed to the best peer of this run;")
    lines.append("experts/layer: distinct ones per layer and step, of what uniform routing gives")
    for entry in report["missing"]:
        lines.append(f"!! NOT MEASURED: {entry['test']}: {entry['engine']}: {entry['reason']}")
    return "\n".join(lines) + "\n"


def main():
    args = parse_args()
    if shutil.which(args.moed_bench) is None:
        print(f"!! there is no program {args.moed_bench}: only peers are measured", file=sys.stderr)
    config = os.path.abspath(args.config)
    setup = Setup(config, args.threads, args.samples, args.timeout, args.runner, args.raw)
    engines = make_engines(args, Runner(setup))
    report = make_report(args, measure_all(args, engines, make_tests(args)))
    names = [engine.name for engine in engines]
    print(format_text(report, names), end="")
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if args.markdown:
        pathlib.Path(args.markdown).write_text(format_markdown(report, names), encoding="utf-8")
    sys.exit(1 if report["missing"] else 0)


if __name__ == "__main__":
    main()
