#include "client/load/report/result_text.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace moed::load {
namespace {

using nlohmann::ordered_json;
using Align = TextTable::Align;

double Number(const ordered_json& json, const std::string& key) {
  const auto found = json.find(key);
  return found != json.end() && found->is_number() ? found->get<double>() : 0;
}

std::string LatencyTable(const ordered_json& result) {
  TextTable table(
      {{"latency (ms)", Align::kLeft}, {"mean"}, {"p50"}, {"p90"}, {"p95"}, {"p99"}, {"p99.9"}});
  const auto cell = [](double ms) { return absl::StrFormat("%.2f", ms); };
  const std::pair<const char*, const char*> names[] = {{"ttft", "time to first token"},
                                                       {"tpot", "time per output token"},
                                                       {"itl", "inter-token latency"},
                                                       {"e2el", "end to end"}};
  for (const auto& [key, title] : names) {
    const std::string tail = absl::StrCat("_", key, "_ms");
    table.AddRow({title, cell(Number(result, "mean" + tail)), cell(Number(result, "p50" + tail)),
                  cell(Number(result, "p90" + tail)), cell(Number(result, "p95" + tail)),
                  cell(Number(result, "p99" + tail)), cell(Number(result, "p99.9" + tail))});
  }
  const auto add = [&](const char* title, const ordered_json& latency) {
    table.AddRow({title, cell(Number(latency, "mean_ms")), cell(Number(latency, "p50_ms")),
                  cell(Number(latency, "p90_ms")), "-", cell(Number(latency, "p99_ms")),
                  cell(Number(latency, "p99.9_ms"))});
  };
  const ordered_json& moed = result["moed"];
  add("first token since actual send", moed["from_actual_send"]["ttft"]);
  add("queued in the server", moed["queue"]);
  add("schedule lag of the client", moed["client"]["schedule_lag"]);
  return table.ToString();
}

std::string OutcomesLine(const ordered_json& moed) {
  std::vector<std::string> parts;
  for (const auto& [name, count] : moed["outcomes"].items()) {
    if (name == "completed" || count.get<int64_t>() > 0) {
      parts.push_back(absl::StrCat(count.get<int64_t>(), " ", name));
    }
  }
  return absl::StrCat("requests: ", absl::StrJoin(parts, ", "), "\n");
}

std::string RatesLines(const ordered_json& result) {
  std::string out = absl::StrFormat(
      "rates: %.2f requests/s, %.1f output tokens/s (peak %.0f), %.1f tokens/s with prompts, over "
      "%.2f s; at most %d in flight\n",
      Number(result, "request_throughput"), Number(result, "output_throughput"),
      Number(result, "max_output_tokens_per_s"), Number(result, "total_token_throughput"),
      Number(result, "duration"), static_cast<int64_t>(Number(result, "max_concurrent_requests")));
  const ordered_json& steady = result["steady_state"];
  if (Number(steady, "duration") > 0) {
    absl::StrAppendFormat(
        &out,
        "steady state: second %.0f to %.0f: %.2f requests/s, %.1f output tokens/s, "
        "TTFT p50 %.2f ms, p99 %.2f ms\n",
        Number(steady, "start_s"), Number(steady, "end_s"), Number(steady, "request_throughput"),
        Number(steady, "output_throughput"), Number(steady, "p50_ttft_ms"),
        Number(steady, "p99_ttft_ms"));
  }
  const ordered_json& slo = result["moed"]["slo"];
  if (slo.contains("attainment")) {
    absl::StrAppendFormat(&out, "goodput: %.2f requests/s; %.2f%% of the requests were good\n",
                          Number(result, "request_goodput"), 100 * Number(slo, "attainment"));
  }
  return out;
}

std::string SamplesTable(const ordered_json& moed) {
  const ordered_json& samples = moed["samples"];
  if (samples["of"] != "runs" || !samples.contains("figures")) return "";
  TextTable table({{"figure of the runs", Align::kLeft}, {"mean"}, {"95% from"}, {"to"}});
  for (const auto& [name, figure] : samples["figures"].items()) {
    table.AddRow({name, absl::StrFormat("%.2f", Number(figure, "mean")),
                  absl::StrFormat("%.2f", Number(figure, "ci95_low")),
                  absl::StrFormat("%.2f", Number(figure, "ci95_high"))});
  }
  return absl::StrCat("\n", table.ToString());
}

std::string ServerLines(const ordered_json& moed, Charset charset) {
  if (!moed.contains("server") || !moed["server"].contains("whole_run")) return "";
  const ordered_json& server = moed["server"];
  const ordered_json& run = server["whole_run"];
  std::string out = absl::StrFormat(
      "\nserver: %d steps, %.1f%% of prompt tokens cached, %d preemptions",
      static_cast<int64_t>(Number(run, "steps")), 100 * Number(run, "prefix_cache_hit_ratio"),
      static_cast<int64_t>(Number(run, "preemptions")));
  if (run.contains("exchange_share")) {
    absl::StrAppendFormat(&out, ", exchange %.1f%% of step time (%.1f%% waiting)",
                          100 * Number(run, "exchange_share"),
                          100 * Number(run, "exchange_wait_share"));
  }
  absl::StrAppend(&out, "\n");
  if (server.contains("experts")) {
    absl::StrAppendFormat(&out,
                          "experts: balancedness %.3f over ranks (mean of layers), %.3f over "
                          "experts\n",
                          Number(server["experts"], "mean_layer_balancedness"),
                          Number(server["experts"], "mean_layer_expert_balancedness"));
  }
  if (run.contains("rows_per_rank")) {
    const auto rows = run["rows_per_rank"].get<std::vector<double>>();
    const double most = std::max(1.0, *std::max_element(rows.begin(), rows.end()));
    TextTable table({{"rank"}, {"expert rows"}, {"", Align::kLeft}});
    for (size_t rank = 0; rank < rows.size(); ++rank) {
      table.AddRow({absl::StrCat(rank), absl::StrFormat("%.0f", rows[rank]),
                    Bar(rows[rank] / most, 24, charset)});
    }
    absl::StrAppend(&out, table.ToString());
  }
  return out;
}

std::string SkewLine(const ordered_json& moed) {
  if (!moed.contains("expert_skew")) return "";
  const ordered_json& skew = moed["expert_skew"];
  return absl::StrFormat(
      "expert skew over %s: balancedness %.3f asked for, %.3f predicted, %.3f "
      "measured\n",
      skew["groups"].get<std::string>(), Number(skew, "target"), Number(skew, "predicted"),
      Number(skew, "measured"));
}

std::string VerifyLine(const ordered_json& moed) {
  if (!moed.contains("verify")) return "";
  return absl::StrFormat("verify: %d answers compared, %d differ\n",
                         static_cast<int64_t>(Number(moed["verify"], "compared")),
                         static_cast<int64_t>(Number(moed["verify"], "different")));
}

std::string CsvCell(const ordered_json& row, const char* key) {
  const auto found = row.find(key);
  return found == row.end() ? "" : found->dump();
}

}  // namespace

std::string FormatResult(const ordered_json& result, Charset charset) {
  const ordered_json& moed = result["moed"];
  std::string out = absl::StrCat(OutcomesLine(moed), RatesLines(result), "\n", LatencyTable(result),
                                 SamplesTable(moed), ServerLines(moed, charset), SkewLine(moed),
                                 VerifyLine(moed));
  for (const auto& [error, count] : moed["errors"].items()) {
    absl::StrAppend(&out, "error (", count.get<int64_t>(), " times): ", error, "\n");
  }
  for (const ordered_json& reason : moed["invalid_reasons"]) {
    absl::StrAppend(&out, "NOT VALID: ", reason.get<std::string>(), "\n");
  }
  return out;
}

std::string FormatPoints(const std::vector<LoadPoint>& points, const std::string& unit) {
  TextTable table({{unit},
                   {"requests/s"},
                   {"tokens/s"},
                   {"TTFT p50"},
                   {"TTFT p99"},
                   {"TPOT p50"},
                   {"TPOT p99"},
                   {"good"},
                   {"", Align::kLeft}});
  for (const LoadPoint& point : points) {
    const auto ms = [](double value) { return absl::StrFormat("%.1f ms", value); };
    table.AddRow({absl::StrFormat("%.3g", point.level),
                  absl::StrFormat("%.2f", point.request_throughput),
                  absl::StrFormat("%.0f", point.output_throughput), ms(point.ttft_p50_ms),
                  ms(point.ttft_p99_ms), ms(point.tpot_p50_ms), ms(point.tpot_p99_ms),
                  absl::StrFormat("%.1f%%", 100 * point.attainment),
                  absl::StrCat(point.meets ? "meets" : "fails",
                               point.is_valid ? "" : ", client not valid")});
  }
  return table.ToString();
}

std::string FormatTimelineCsv(const ordered_json& result) {
  const std::vector<const char*> columns = {
      "second",      "sent",        "completed",  "failed",     "in_flight",   "output_tokens",
      "ttft_p50_ms", "ttft_p99_ms", "itl_p50_ms", "itl_p99_ms", "e2el_p50_ms", "e2el_p99_ms"};
  const std::vector<const char*> of_server = {
      "running",      "waiting",        "kv_used_ratio",      "generated_tokens_per_s",
      "balancedness", "exchange_share", "exchange_wait_share"};
  std::string out = absl::StrCat(absl::StrJoin(columns, ","), ",server_",
                                 absl::StrJoin(of_server, ",server_"), "\n");
  const ordered_json& moed = result["moed"];
  const ordered_json samples = moed.contains("server") ? moed["server"]["samples"] : ordered_json();
  size_t sample = 0;
  for (const ordered_json& row : moed["timeline"]) {
    std::vector<std::string> cells;
    for (const char* column : columns) cells.push_back(CsvCell(row, column));
    const double end = row["second"].get<double>() + 1;
    while (sample + 1 < samples.size() && Number(samples[sample + 1], "seconds") <= end) ++sample;
    for (const char* column : of_server) {
      cells.push_back(sample < samples.size() ? CsvCell(samples[sample], column) : "");
    }
    absl::StrAppend(&out, absl::StrJoin(cells, ","), "\n");
  }
  return out;
}

}  // namespace moed::load
