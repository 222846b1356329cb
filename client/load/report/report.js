"use strict";
const result = JSON.parse(document.getElementById("result").textContent);
const moed = result.moed;
const server = moed.server || { samples: [] };
const tooltip = document.getElementById("tooltip");
const redraws = [];

// Elements. Text never becomes markup: what a server or a user said is shown as it is.
function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}
function svg(tag, attributes = {}, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

// Numbers.
function short(value) {
  const size = Math.abs(value);
  if (size >= 1e9) return trim(value / 1e9) + "G";
  if (size >= 1e6) return trim(value / 1e6) + "M";
  if (size >= 1e4) return trim(value / 1e3) + "k";
  return size >= 1000 ? String(Math.round(value)) : trim(value);
}
function trim(value) {
  const size = Math.abs(value);
  const digits = size >= 100 || size === 0 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3;
  return String(Number(value.toFixed(digits)));
}
function ms(value) {
  if (value >= 10000) return trim(value / 1000) + " s";
  return (value > 0 && value < 1 ? value.toFixed(3) : trim(value)) + " ms";
}
const percent = (value) => trim(100 * value) + " %";
const time = (value) => value >= 120 ? trim(value / 60) + " min" : trim(value) + " s";

function niceTicks(low, high, most) {
  const span = high - low || 1;
  const rough = span / Math.max(1, most);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= rough) || 10 * power;
  const ticks = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + step * 1e-9; tick += step) {
    ticks.push(Math.abs(tick) < step * 1e-9 ? 0 : tick);
  }
  return ticks;
}

function showTooltip(event, lines) {
  tooltip.replaceChildren(...lines);
  tooltip.hidden = false;
  const box = tooltip.getBoundingClientRect();
  const left = event.clientX + 14 + box.width > window.innerWidth ? event.clientX - box.width - 14 : event.clientX + 14;
  tooltip.style.left = Math.max(4, left) + "px";
  tooltip.style.top = Math.max(4, Math.min(event.clientY + 12, window.innerHeight - box.height - 4)) + "px";
}
const hideTooltip = () => { tooltip.hidden = true; };
function tooltipLine(color, name, value) {
  const line = make("div");
  if (color) line.append(make("i", { style: `background: ${color}` }));
  line.append(name + " ", make("b", {}, value));
  return line;
}

// A percentile on an axis of its distance from 100: 0, 90, 99, 99.9 are equally far apart.
const tail = { to: (p) => -Math.log10(1 - p / 100), ticks: [0, 50, 90, 99, 99.9, 99.99], format: (p) => "p" + p };

// Lines over x. options: series [{name, color, points}], x (format), y (format), xName, tail, dots,
// marks [{x, name}], band {from, to, name}
function lineChart(host, options) {
  const plot = make("div", { class: "plot" });
  if (options.series.length > 1) {
    host.append(make("div", { class: "legend" }, ...options.series.map((s) => make("span", {},
      make("i", { style: `background: ${s.color}` }), s.name))));
  }
  host.append(plot);
  redraws.push(() => drawLines(plot, options));
}
function drawLines(plot, options) {
  const width = plot.clientWidth, height = options.height || 210;
  if (width < 40) return;
  const all = options.series.flatMap((s) => s.points);
  const at = options.tail ? tail.to : (x) => x;
  let low = Math.min(...all.map((p) => at(p[0]))), high = Math.max(...all.map((p) => at(p[0])));
  if (options.fromZero) low = 0;
  if (low === high) { low -= 0.5; high += 0.5; }
  const yMost = Math.max(...all.map((p) => p[1]), options.yLeast || 0) || 1;
  const rough = niceTicks(0, yMost, 4), step = rough.length > 1 ? rough[1] : yMost;
  const top = step * Math.ceil(yMost / step - 1e-9);
  const yTicks = niceTicks(0, top, top / step);
  const labels = yTicks.map(options.y);
  const left = 12 + 7 * Math.max(...labels.map((l) => l.length)), right = 14, above = 8, below = 34;
  const px = (x) => left + (at(x) - low) / (high - low) * (width - left - right);
  const py = (y) => height - below - y / (top || 1) * (height - below - above);
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": options.title });
  if (options.band) {
    root.append(svg("rect", { x: px(options.band.from), y: above, width: Math.max(0, px(options.band.to) - px(options.band.from)),
      height: height - below - above, fill: "var(--grid)", opacity: 0.6 }));
  }
  yTicks.forEach((tick, i) => {
    root.append(svg("line", { class: "grid", x1: left, x2: width - right, y1: py(tick), y2: py(tick) }));
    root.append(svg("text", { x: left - 8, y: py(tick) + 4, "text-anchor": "end" }, labels[i]));
  });
  const xTicks = options.tail ? tail.ticks.filter((t) => at(t) <= high + 1e-9 && at(t) >= low - 1e-9)
    : niceTicks(low, high, Math.max(2, Math.floor(width / 90)));
  for (const tick of xTicks) {
    root.append(svg("text", { x: px(tick), y: height - below + 17, "text-anchor": "middle" }, options.tail ? tail.format(tick) : options.x(tick)));
  }
  root.append(svg("line", { class: "axis", x1: left, x2: width - right, y1: height - below, y2: height - below }));
  if (options.xName) root.append(svg("text", { x: (left + width - right) / 2, y: height - 2, "text-anchor": "middle" }, options.xName));
  for (const line of options.series) {
    if (line.points.length === 0) continue;
    const path = line.points.map((p, i) => `${i ? "L" : "M"}${px(p[0]).toFixed(1)} ${py(p[1]).toFixed(1)}`).join("");
    root.append(svg("path", { d: path, fill: "none", stroke: line.color, "stroke-width": 2, "stroke-linejoin": "round",
      "stroke-linecap": "round", ...(line.dash ? { "stroke-dasharray": "5 4" } : {}) }));
    if (options.dots || line.points.length === 1) {
      for (const p of line.points) {
        root.append(svg("circle", { cx: px(p[0]), cy: py(p[1]), r: 4, fill: p[2] === false ? "var(--card)" : line.color,
          stroke: line.color, "stroke-width": 2 }));
      }
    }
  }
  for (const mark of options.marks || []) {
    root.append(svg("line", { x1: px(mark.x), x2: px(mark.x), y1: above, y2: height - below, stroke: "var(--muted)", "stroke-dasharray": "4 4" }));
    root.append(svg("text", { x: px(mark.x) - 6, y: above + 10, "text-anchor": "end", class: "mark" }, mark.name));
  }
  addCrosshair(root, options, { px, py, left, right, above, below, width, height });
  plot.replaceChildren(root);
}
function addCrosshair(root, options, area) {
  const xs = [...new Set(options.series.flatMap((s) => s.points.map((p) => p[0])))].sort((a, b) => a - b);
  const rule = svg("line", { y1: area.above, y2: area.height - area.below, stroke: "var(--muted)", visibility: "hidden" });
  const cover = svg("rect", { x: area.left, y: 0, width: Math.max(0, area.width - area.left - area.right),
    height: area.height - area.below, fill: "transparent" });
  cover.addEventListener("pointermove", (event) => {
    const scale = area.width / root.getBoundingClientRect().width;
    const x = (event.clientX - root.getBoundingClientRect().left) * scale;
    const nearest = xs.reduce((best, v) => Math.abs(area.px(v) - x) < Math.abs(area.px(best) - x) ? v : best, xs[0]);
    rule.setAttribute("x1", area.px(nearest));
    rule.setAttribute("x2", area.px(nearest));
    rule.setAttribute("visibility", "visible");
    const lines = [make("div", {}, options.tail ? "percentile " + nearest : options.x(nearest))];
    for (const line of options.series) {
      const point = line.points.find((p) => p[0] === nearest);
      if (point) lines.push(tooltipLine(line.color, line.name, options.y(point[1])));
    }
    showTooltip(event, lines);
  });
  cover.addEventListener("pointerleave", () => { rule.setAttribute("visibility", "hidden"); hideTooltip(); });
  root.append(rule, cover);
}

// Load of each expert of each layer, against the mean of its layer.
function heatMap(host, experts) {
  const layers = experts.layers;
  const means = layers.map((l) => l.rows_per_expert.reduce((a, b) => a + b, 0) / l.rows_per_expert.length || 1);
  const most = Math.max(1, ...layers.flatMap((l, i) => l.rows_per_expert.map((v) => v / means[i])));
  host.append(make("div", { class: "scale" }, "0", make("span", { class: "ramp" }), trim(most) + " × the mean of the layer"));
  const plot = make("div", { class: "plot" });
  host.append(plot);
  redraws.push(() => {
    const width = plot.clientWidth, left = 44, below = 34, count = experts.num_experts;
    if (width < 60 || count === 0) return;
    const cell = (width - left - 2) / count, row = Math.max(8, Math.min(26, 420 / layers.length));
    const height = row * layers.length + below, gap = cell > 6 ? 1.5 : 0;
    const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": "Expert load by layer and expert" });
    layers.forEach((layer, i) => {
      if (i % Math.ceil(14 / row) === 0) root.append(svg("text", { x: left - 8, y: i * row + row / 2 + 4, "text-anchor": "end" }, layer.layer));
      layer.rows_per_expert.forEach((rows, expert) => {
        const ratio = rows / means[i];
        const rect = svg("rect", { x: left + expert * cell, y: i * row, width: Math.max(0.5, cell - gap), height: row - Math.min(gap, 1.5),
          rx: gap ? 2 : 0, fill: `color-mix(in oklab, var(--heat-high) ${(100 * ratio / most).toFixed(1)}%, var(--heat-low))` });
        rect.addEventListener("pointermove", (event) => showTooltip(event, [
          make("div", {}, `layer ${layer.layer}, expert ${expert}`), tooltipLine("", short(rows), "rows"),
          tooltipLine("", trim(ratio), "× mean")]));
        rect.addEventListener("pointerleave", hideTooltip);
        root.append(rect);
      });
    });
    const step = Math.max(1, Math.ceil(count / Math.max(2, Math.floor((width - left) / 40))));
    for (let expert = 0; expert < count; expert += step) {
      root.append(svg("text", { x: left + (expert + 0.5) * cell, y: height - below + 15, "text-anchor": "middle" }, expert));
    }
    root.append(svg("text", { x: (left + width) / 2, y: height - 3, "text-anchor": "middle" }, "expert"));
    root.append(svg("text", { x: 10, y: row * layers.length / 2, "text-anchor": "middle", transform: `rotate(-90 10 ${row * layers.length / 2})` }, "layer"));
    plot.replaceChildren(root);
  });
}

// The page.
function section(title, lead) {
  const cards = make("div", { class: "cards" });
  const node = make("section", {}, make("h2", {}, title));
  if (lead) node.append(make("p", { class: "lead" }, lead));
  node.append(cards);
  document.getElementById("sections").append(node);
  return (name, sub, wide) => {
    const card = make("div", { class: wide ? "card wide" : "card" }, make("h3", {}, name));
    if (sub) card.append(make("p", { class: "sub" }, sub));
    cards.append(card);
    return card;
  };
}
function table(host, columns, rows) {
  host.append(make("div", { class: "scroll" }, make("table", {},
    make("thead", {}, make("tr", {}, ...columns.map((c) => make("th", { scope: "col" }, c)))),
    make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((c) => make("td", {}, c))))))));
}

function header() {
  const load = moed.load || {};
  const title = result.label || `Load test of ${result.model_id || "moed"}`;
  document.title = title + " · moed-load";
  const date = /^(\d{4})(\d\d)(\d\d)-(\d\d)(\d\d)/.exec(result.date || "");
  const facts = [["model", result.model_id], ["date", date ? `${date[1]}-${date[2]}-${date[3]} ${date[4]}:${date[5]}` : result.date],
    ["load", load.kind], ["rate", moed.search && load.rate ? trim(Number(result.request_rate)) : load.rate], ["arrivals", load.arrivals], ["concurrency", load.concurrency && moed.search ? result.max_concurrency : load.concurrency], ["trace", load.trace],
    ["prompts", load.dataset], ["input", load.input_len], ["output", load.output_len], ["turns", load.turns], ["duration", time(result.duration)]];
  document.getElementById("header").append(
    make("div", { class: "row" }, make("h1", {}, title),
      make("span", { class: "badge " + (moed.valid ? "good" : "bad") }, moed.valid ? "valid run" : "not valid")),
    make("div", { class: "facts" }, ...facts.filter(([, value]) => value).map(([name, value]) => make("span", {}, name + " ", make("b", {}, String(value))))));
  const notes = [...moed.invalid_reasons, ...(moed.interrupted ? ["The run was interrupted; these are the figures up to then."] : []),
    ...Object.entries(moed.errors || {}).map(([error, count]) => `${count} × ${error}`)];
  if (moed.verify && moed.verify.different > 0) notes.push(`${moed.verify.different} of ${moed.verify.compared} answers differ from those without load.`);
  const host = document.getElementById("notes");
  host.hidden = notes.length === 0;
  host.append(...notes.map((text) => make("p", { class: "note" }, text)));
}

function tiles() {
  const add = (name, value, unit, more) => document.getElementById("tiles").append(make("div", { class: "tile" },
    make("div", { class: "name" }, name), make("div", { class: "value" }, value, make("small", {}, unit)), make("div", { class: "more" }, more || "\u00a0")));
  const split = (value) => ms(value).split(" ");
  const add_ms = (name, value, more) => { const [number, unit] = split(value); add(name, number, unit, more); };
  add("Output", short(result.output_throughput), "tokens/s", `peak ${short(result.max_output_tokens_per_s)}`);
  add("Requests", short(result.request_throughput), "per s", `${result.completed} done, ${result.failed} failed`);
  add_ms("First token, median", result.median_ttft_ms, `p99 ${ms(result.p99_ttft_ms)}`);
  add_ms("Per output token, median", result.median_tpot_ms, `p99 ${ms(result.p99_tpot_ms)}`);
  add_ms("End to end, median", result.median_e2el_ms, `p99 ${ms(result.p99_e2el_ms)}`);
  if (moed.slo && moed.slo.attainment !== undefined) {
    add("Goodput", short(result.request_goodput), "per s", `${percent(moed.slo.attainment)} within limits`);
  }
  const experts = server.experts;
  if (experts) add("Balancedness", trim(experts.mean_layer_balancedness), "", `over ${experts.num_ranks} rank${experts.num_ranks > 1 ? "s" : ""}; 1 is perfect`);
  const whole = server.whole_run || {};
  if (whole.exchange_share !== undefined) add("Exchange", trim(100 * whole.exchange_share), "% of step time", `${percent(whole.exchange_wait_share)} waiting`);
}

function latencies() {
  const card = section("Latency", "Counted from the time at which a request was to be sent, so that a late client cannot hide a slow server. "
    + "Percentiles are spread so that p90, p99 and p99.9 are equally far apart.");
  const curves = moed.curves;
  const charts = [["Time to first token", "ttft", "ttft_from_send"], ["Time per output token", "tpot"], ["Inter-token latency", "itl"], ["End to end", "e2el", "e2el_from_send"]];
  for (const [title, key, beside] of charts) {
    if (!curves[key] || curves[key].length === 0) continue;
    const series = [{ name: beside ? "since intended send" : title, color: "var(--one)", points: curves[key] }];
    if (beside) series.push({ name: "since actual send", color: "var(--two)", dash: true, points: curves[beside] });
    lineChart(card(title), { title, series, tail: true, y: ms });
  }
  const row = (name, key) => [name, ...["mean", "p50", "p90", "p95", "p99", "p99.9"].map((p) => ms(result[`${p}_${key}_ms`]))];
  const brief = (name, l) => [name, ms(l.mean_ms), ms(l.p50_ms), ms(l.p90_ms), "", ms(l.p99_ms), ms(l["p99.9_ms"])];
  table(card("All figures", "", true), ["", "mean", "p50", "p90", "p95", "p99", "p99.9"], [
    row("time to first token", "ttft"), row("time per output token", "tpot"), row("inter-token latency", "itl"), row("end to end", "e2el"),
    brief("first token since actual send", moed.from_actual_send.ttft), brief("queued in the server", moed.queue),
    brief("schedule lag of this client", moed.client.schedule_lag)]);
}

function timeline() {
  // The last second is over before it is full.
  const rows = moed.timeline.filter((row) => row.second + 1 <= moed.warmup_s + result.duration);
  if (rows.length < 2) return;
  const steady = result.steady_state;
  const band = steady && steady.duration > 0 ? { from: steady.start_s, to: Math.min(steady.end_s, rows.length) } : undefined;
  const card = section("Timeline", band ? `By second. The shaded part, ${trim(steady.start_s)} s to ${trim(steady.end_s)} s, is the steady state: `
    + `${short(steady.output_throughput)} tokens/s, first token p50 ${ms(steady.p50_ttft_ms)}, p99 ${ms(steady.p99_ttft_ms)}.` : "By second.");
  const at = (row) => row.second + 0.5;
  const line = (name, color, key, filter) => ({ name, color, points: rows.filter(filter || (() => true)).map((r) => [at(r), r[key]]) });
  const draw = (title, sub, series, y) => lineChart(card(title, sub), { title, series, x: time, y, band, fromZero: true });
  draw("Output tokens per second", "", [line("tokens/s", "var(--one)", "output_tokens")], short);
  draw("Requests", "", [line("in flight", "var(--one)", "in_flight"), line("sent per second", "var(--two)", "sent")], short);
  const has = (key) => (r) => r[key] > 0;
  draw("Time to first token", "of first tokens that came in the second", [line("p50", "var(--one)", "ttft_p50_ms", has("ttft_p50_ms")), line("p99", "var(--two)", "ttft_p99_ms", has("ttft_p99_ms"))], ms);
  draw("Inter-token latency", "", [line("p50", "var(--one)", "itl_p50_ms", has("itl_p50_ms")), line("p99", "var(--two)", "itl_p99_ms", has("itl_p99_ms"))], ms);
  const samples = server.samples.filter((s) => s.running !== undefined);
  if (samples.length > 1) {
    const of = (name, color, key) => ({ name, color, points: samples.map((s) => [s.seconds, s[key]]) });
    draw("Sequences in the server", "", [of("running", "var(--one)", "running"), of("waiting", "var(--two)", "waiting")], short);
    draw("KV memory in use", "", [of("KV blocks", "var(--one)", "kv_used_ratio")], percent);
  }
}

function experts() {
  const load = server.experts;
  if (!load || load.layers.length === 0) return;
  const skew = moed.expert_skew;
  const card = section("Experts and exchange", skew ? `Prompts were mixed for a balancedness of ${trim(skew.target)} over ${skew.groups}: `
    + `${trim(skew.predicted)} predicted, ${skew.measured === null ? "nothing" : trim(skew.measured)} measured.` : "What the experts did while the load was on; read from the server.");
  const samples = server.samples;
  const balanced = samples.filter((s) => s.balancedness !== undefined).map((s) => [s.seconds, s.balancedness]);
  if (balanced.length > 1) {
    lineChart(card("Balancedness", "mean / max of rows per rank in a layer, mean of the layers, by second"), { title: "Balancedness", yLeast: 1, fromZero: true, x: time, y: trim,
      series: [{ name: "balancedness", color: "var(--one)", points: balanced }] });
  }
  const share = samples.filter((s) => s.exchange_share !== undefined);
  if (share.length > 1) {
    lineChart(card("Exchange", "part of the step time that ranks spend in dispatch and combine"), { title: "Exchange", fromZero: true, x: time, y: percent, series: [
      { name: "exchange", color: "var(--one)", points: share.map((s) => [s.seconds, s.exchange_share]) },
      { name: "of it waiting for other ranks", color: "var(--two)", points: share.map((s) => [s.seconds, s.exchange_wait_share]) }] });
  }
  const first = moed.timeline.filter((r) => r.ttft_p50_ms > 0);
  if (balanced.length > 1 && first.length > 1) {
    lineChart(card("First token beside it", "median time to first token, by second"), { title: "Time to first token", fromZero: true, x: time, y: ms,
      series: [{ name: "TTFT p50", color: "var(--three)", points: first.map((r) => [r.second + 0.5, r.ttft_p50_ms]) }] });
  }
  const rows = (server.whole_run || {}).rows_per_rank;
  if (rows && rows.length > 1) {
    const host = card("Rows per rank", "expert rows computed during the run");
    const most = Math.max(1, ...rows);
    rows.forEach((value, rank) => host.append(make("div", { class: "bar" }, make("span", {}, "rank " + rank),
      make("div", { class: "track" }, make("div", { class: "fill", style: `width: ${100 * value / most}%` })), make("span", { class: "amount" }, short(value) + " rows"))));
  }
  heatMap(card("Load of each expert", "rows during the run", true), load);
}

function search() {
  const found = moed.search;
  if (!found || found.points.length === 0) return;
  const best = found.best;
  const card = section("Load against latency", best === null ? "No load met the limits." : `The highest load that met the limits in ${percent(found.attainment)} of the requests: ${trim(best)} ${found.unit}. Hollow points did not meet them.`);
  const points = [...found.points].sort((a, b) => a.level - b.level);
  const line = (name, color, key) => ({ name, color, points: points.map((p) => [p.level, p[key], p.meets]) });
  const marks = best === null ? [] : [{ x: best, name: "best" }];
  const draw = (title, series, y) => lineChart(card(title), { title, series, x: trim, y, dots: true, marks, xName: found.unit });
  draw("Time to first token", [line("p50", "var(--one)", "ttft_p50_ms"), line("p99", "var(--two)", "ttft_p99_ms")], ms);
  draw("Time per output token", [line("p50", "var(--one)", "tpot_p50_ms"), line("p99", "var(--two)", "tpot_p99_ms")], ms);
  draw("Output tokens per second", [line("tokens/s", "var(--one)", "output_throughput")], short);
  draw("Requests within the limits", [line("part within limits", "var(--one)", "attainment")], percent);
  table(card("Every run", "", true), [found.unit, "done per s", "tokens/s", "TTFT p50", "TTFT p99", "TPOT p50", "TPOT p99", "good", ""], points.map((p) => [
    trim(p.level), trim(p.request_throughput), short(p.output_throughput), ms(p.ttft_p50_ms), ms(p.ttft_p99_ms), ms(p.tpot_p50_ms), ms(p.tpot_p99_ms),
    percent(p.attainment), p.meets ? "meets" : "fails"]));
}

function more() {
  if (moed.turns) {
    const card = section("Turns of the conversations");
    table(card("First token by turn", "later turns bring more that is cached", true), ["turn", "requests", "prompt tokens", "cached", "TTFT p50", "TTFT p99"],
      moed.turns.map((t) => [String(t.turn + 1), String(t.completed), short(t.input_tokens), percent(t.cached_ratio), ms(t.ttft.p50_ms), ms(t.ttft.p99_ms)]));
  }
  const samples = moed.samples;
  if (samples && samples.of === "runs" && samples.figures) {
    const card = section("Repeated runs");
    table(card("Mean and 95 % confidence interval", "", true), ["figure", "runs", "mean", "from", "to"],
      Object.entries(samples.figures).map(([name, f]) => [name, String(f.values.length), trim(f.mean), trim(f.ci95_low), trim(f.ci95_high)]));
  }
  const card = section("Client", "A run counts only when this client could keep up.");
  table(card("Requests", ""), ["outcome", "count"], Object.entries(moed.outcomes).filter(([, n]) => n > 0).map(([name, n]) => [name.replaceAll("_", " "), String(n)]));
  table(card("This client", ""), ["figure", ""], [["schedule lag, p99", ms(moed.client.schedule_lag.p99_ms)],
    ["CPU of the busiest reading thread", percent(moed.client.worker_cpu_share)], ["CPU seconds of the process", trim(moed.client.process_cpu_seconds)],
    ["most requests in flight", String(result.max_concurrent_requests)]]);
  const shown = { ...result, moed: { ...moed, timeline: "…", server: "…" } };
  document.getElementById("sections").append(make("details", {}, make("summary", {}, "Figures as JSON"), make("pre", {}, JSON.stringify(shown, null, 2))));
  document.getElementById("footer").append(server.problem ? `Server figures are incomplete: ${server.problem}. ` : "", "Made by moed-load; this page needs nothing but itself.");
}

header();
tiles();
search();
latencies();
timeline();
experts();
more();
const redraw = () => redraws.forEach((draw) => draw());
redraw();
let pending = 0;
window.addEventListener("resize", () => { cancelAnimationFrame(pending); pending = requestAnimationFrame(redraw); });
