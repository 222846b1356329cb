#include "client/load/report/result_json.h"

#include <cmath>
#include <utility>

#include "client/load/stats/significance.h"

namespace moed::load {
namespace {

using nlohmann::ordered_json;

constexpr double kNsPerMs = 1e6;
constexpr int kSchema = 1;

double Ms(double ns) { return ns / kNsPerMs; }

void AddLatency(const std::string& name, const Histogram& latency, ordered_json& out) {
  out["mean_" + name + "_ms"] = Ms(latency.Mean());
  out["median_" + name + "_ms"] = Ms(latency.Percentile(50));
  out["std_" + name + "_ms"] = Ms(latency.StandardDeviation());
  const std::pair<const char*, double> percentiles[] = {
      {"p50", 50}, {"p90", 90}, {"p95", 95}, {"p99", 99}, {"p99.9", 99.9}};
  for (const auto& [prefix, percent] : percentiles) {
    out[std::string(prefix) + "_" + name + "_ms"] = Ms(latency.Percentile(percent));
  }
}

ordered_json Latency(const Histogram& latency) {
  return {{"count", latency.count()},
          {"mean_ms", Ms(latency.Mean())},
          {"p50_ms", Ms(latency.Percentile(50))},
          {"p90_ms", Ms(latency.Percentile(90))},
          {"p99_ms", Ms(latency.Percentile(99))},
          {"p99.9_ms", Ms(latency.Percentile(99.9))},
          {"max_ms", Ms(static_cast<double>(latency.max()))}};
}

// Points for a plot against 1 / (1 - percentile).
ordered_json Curve(const Histogram& latency) {
  ordered_json points = ordered_json::array();
  if (latency.count() == 0) return points;
  for (const double percent :
       {0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.9, 99.95, 99.99}) {
    // Beyond 1 - 1/n a percentile is no more than the largest value.
    if ((100 - percent) / 100 * static_cast<double>(latency.count()) < 0.99) break;
    points.push_back({percent, Ms(latency.Percentile(percent))});
  }
  return points;
}

/// Enough to merge results of several clients: [nanoseconds, count] for each bucket.
ordered_json Buckets(const Histogram& latency) {
  ordered_json buckets = ordered_json::array();
  latency.ForEachBucket([&](double ns, int64_t count) {
    buckets.push_back({std::llround(ns), count});
  });
  return buckets;
}

ordered_json SteadyJson(const SteadyState& steady) {
  ordered_json out = {{"start_s", steady.begin_s},
                      {"end_s", steady.end_s},
                      {"duration", std::max(0.0, steady.end_s - steady.begin_s)},
                      {"completed", steady.figures.num_completed},
                      {"request_throughput", steady.request_throughput},
                      {"output_throughput", steady.output_throughput}};
  AddLatency("ttft", steady.figures.ttft, out);
  AddLatency("tpot", steady.figures.tpot, out);
  AddLatency("e2el", steady.figures.e2el, out);
  return out;
}

ordered_json TimelineJson(const RunSummary& summary) {
  ordered_json timeline = ordered_json::array();
  for (size_t i = 0; i < summary.seconds.size(); ++i) {
    const RunSecond& second = summary.seconds[i];
    timeline.push_back({{"second", i},
                        {"sent", summary.sent_in_second[i]},
                        {"completed", second.num_completed},
                        {"failed", second.num_failed},
                        {"in_flight", summary.in_flight[i]},
                        {"output_tokens", second.num_tokens},
                        {"ttft_p50_ms", Ms(second.ttft.Percentile(50))},
                        {"ttft_p99_ms", Ms(second.ttft.Percentile(99))},
                        {"itl_p50_ms", Ms(second.itl.Percentile(50))},
                        {"itl_p99_ms", Ms(second.itl.Percentile(99))},
                        {"e2el_p50_ms", Ms(second.e2el.Percentile(50))},
                        {"e2el_p99_ms", Ms(second.e2el.Percentile(99))}});
  }
  return timeline;
}

ordered_json TurnsJson(const std::vector<RequestFigures>& turns) {
  ordered_json out = ordered_json::array();
  for (size_t i = 0; i < turns.size(); ++i) {
    const RequestFigures& turn = turns[i];
    const double cached = turn.num_input_tokens > 0 ? static_cast<double>(turn.num_cached_tokens) /
                                                          static_cast<double>(turn.num_input_tokens)
                                                    : 0;
    out.push_back({{"turn", i},
                   {"completed", turn.num_completed},
                   {"input_tokens", turn.num_input_tokens},
                   {"cached_ratio", cached},
                   {"ttft", Latency(turn.ttft)}});
  }
  return out;
}

ordered_json SamplesJson(const RunSummary& summary) {
  ordered_json out;
  out["of"] = summary.samples_are_runs ? "runs" : "batches";
  for (const auto& [name, values] : summary.samples) {
    const SampleMoments moments = MomentsOf(values);
    const double half = ConfidenceHalfWidth(moments);
    out["figures"][name] = {{"values", values},
                            {"mean", moments.mean},
                            {"ci95_low", moments.mean - half},
                            {"ci95_high", moments.mean + half}};
  }
  return out;
}

ordered_json SloJson(const RunSummary& summary, const ServiceLevel& slo) {
  ordered_json out;
  if (slo.ttft_ms.has_value()) out["ttft_ms"] = *slo.ttft_ms;
  if (slo.tpot_ms.has_value()) out["tpot_ms"] = *slo.tpot_ms;
  if (slo.e2el_ms.has_value()) out["e2el_ms"] = *slo.e2el_ms;
  if (slo.IsSet()) out["attainment"] = Attainment(summary);
  return out;
}

ordered_json MoedJson(const RunSummary& summary, const RunLabels& labels, const ServiceLevel& slo) {
  const RequestFigures& figures = summary.figures;
  ordered_json out;
  out["schema"] = kSchema;
  out["valid"] = summary.invalid_reasons.empty();
  out["invalid_reasons"] = summary.invalid_reasons;
  out["interrupted"] = summary.is_interrupted;
  out["load"] = labels.load;
  out["outcomes"] = {
      {"completed", figures.num_completed},       {"failed", summary.num_failed},
      {"cancelled", summary.num_cancelled},       {"deadline_exceeded", summary.num_deadline},
      {"unfinished", summary.num_unfinished},     {"unsent", summary.num_unsent},
      {"slow_readers", summary.num_slow_readers}, {"cut_prompts", summary.num_cut_prompts}};
  out["errors"] = summary.errors;
  out["client"] = {{"schedule_lag", Latency(summary.lag)},
                   {"worker_cpu_share", summary.worker_cpu_share},
                   {"process_cpu_seconds", summary.process_cpu_seconds}};
  out["warmup_s"] = summary.begin_s;
  out["sending_s"] = summary.sending_s;
  out["total_cached_tokens"] = figures.num_cached_tokens;
  out["queue"] = Latency(figures.queue);
  out["itl_per_token"] = Latency(summary.itl_per_token);
  out["from_actual_send"] = {{"ttft", Latency(figures.ttft_from_send)},
                             {"e2el", Latency(figures.e2el_from_send)}};
  out["curves"] = {{"ttft", Curve(figures.ttft)},
                   {"itl", Curve(summary.itl)},
                   {"tpot", Curve(figures.tpot)},
                   {"e2el", Curve(figures.e2el)},
                   {"queue", Curve(figures.queue)},
                   {"ttft_from_send", Curve(figures.ttft_from_send)},
                   {"e2el_from_send", Curve(figures.e2el_from_send)}};
  out["slo"] = SloJson(summary, slo);
  if (summary.of_turn.size() > 1) out["turns"] = TurnsJson(summary.of_turn);
  out["samples"] = SamplesJson(summary);
  out["timeline"] = TimelineJson(summary);
  out["histograms_ns"] = {{"ttft", Buckets(figures.ttft)},
                          {"itl", Buckets(summary.itl)},
                          {"tpot", Buckets(figures.tpot)},
                          {"e2el", Buckets(figures.e2el)}};
  return out;
}

ordered_json RateOf(const std::string& rate) {
  char* end = nullptr;
  const double number = std::strtod(rate.c_str(), &end);
  if (end != rate.c_str() && *end == '\0' && std::isfinite(number)) return number;
  return rate;
}

}  // namespace

LoadPoint ToPoint(double level, const RunSummary& summary) {
  const RequestFigures& figures = summary.figures;
  return {.level = level,
          .is_valid = summary.invalid_reasons.empty(),
          .attainment = Attainment(summary),
          .request_throughput = summary.request_throughput,
          .output_throughput = summary.output_throughput,
          .ttft_p50_ms = Ms(figures.ttft.Percentile(50)),
          .ttft_p99_ms = Ms(figures.ttft.Percentile(99)),
          .tpot_p50_ms = Ms(figures.tpot.Percentile(50)),
          .tpot_p99_ms = Ms(figures.tpot.Percentile(99)),
          .e2el_p99_ms = Ms(figures.e2el.Percentile(99))};
}

ordered_json ToJson(const RunSummary& summary, const RunLabels& labels, const ServiceLevel& slo) {
  const RequestFigures& figures = summary.figures;
  ordered_json out;
  out["date"] = labels.date;
  out["backend"] = "moed";
  out["endpoint_type"] = "moed.v1";
  out["label"] = labels.label;
  out["model_id"] = labels.model;
  out["tokenizer_id"] = labels.model;
  out["num_prompts"] = labels.num_prompts;
  out["max_model_len"] = labels.max_model_len;
  out["request_rate"] = RateOf(labels.request_rate);
  out["burstiness"] = labels.burstiness;
  out["max_concurrency"] =
      labels.max_concurrency > 0 ? ordered_json(labels.max_concurrency) : ordered_json();
  out["duration"] = summary.duration_s;
  out["completed"] = figures.num_completed;
  out["failed"] = summary.num_failed + summary.num_deadline + summary.num_unfinished;
  out["total_input_tokens"] = figures.num_input_tokens;
  out["total_output_tokens"] = figures.num_output_tokens;
  out["request_throughput"] = summary.request_throughput;
  out["request_goodput"] = slo.IsSet() ? ordered_json(summary.request_goodput) : ordered_json();
  out["input_throughput"] = summary.input_throughput;
  out["output_throughput"] = summary.output_throughput;
  out["total_token_throughput"] = summary.input_throughput + summary.output_throughput;
  out["max_output_tokens_per_s"] = summary.max_output_tokens_per_s;
  out["max_concurrent_requests"] = summary.max_concurrent_requests;
  AddLatency("ttft", figures.ttft, out);
  AddLatency("tpot", figures.tpot, out);
  AddLatency("itl", summary.itl, out);
  AddLatency("e2el", figures.e2el, out);
  out["steady_state"] = SteadyJson(summary.steady);
  out["moed"] = MoedJson(summary, labels, slo);
  return out;
}

ordered_json ToJson(const std::vector<LoadPoint>& points) {
  ordered_json out = ordered_json::array();
  for (const LoadPoint& point : points) {
    out.push_back({{"level", point.level},
                   {"meets", point.meets},
                   {"valid", point.is_valid},
                   {"attainment", point.attainment},
                   {"request_throughput", point.request_throughput},
                   {"output_throughput", point.output_throughput},
                   {"ttft_p50_ms", point.ttft_p50_ms},
                   {"ttft_p99_ms", point.ttft_p99_ms},
                   {"tpot_p50_ms", point.tpot_p50_ms},
                   {"tpot_p99_ms", point.tpot_p99_ms},
                   {"e2el_p99_ms", point.e2el_p99_ms}});
  }
  return out;
}

void AddDetails(const RunRecording& recording, ordered_json& json) {
  constexpr double kNsPerS = 1e9;
  for (const char* key : {"input_lens", "output_lens", "ttfts", "itls", "generated_texts", "errors",
                          "latencies", "start_times", "intended_times", "failed_requests"}) {
    json[key] = ordered_json::array();
  }
  for (size_t i = 0; i < recording.records().size(); ++i) {
    const RequestRecord& record = recording.records()[i];
    if (!recording.Counts(record)) continue;
    const bool has_token = record.first_token_ns > 0;
    const auto since_intended = [&](int64_t ns) {
      return has_token ? static_cast<double>(ns - record.intended_ns) / kNsPerS : 0;
    };
    json["input_lens"].push_back(record.num_prompt_tokens);
    json["output_lens"].push_back(record.num_output_tokens);
    json["ttfts"].push_back(since_intended(record.first_token_ns));
    json["latencies"].push_back(since_intended(record.last_token_ns));
    json["start_times"].push_back(static_cast<double>(record.sent_ns) / kNsPerS);
    json["intended_times"].push_back(static_cast<double>(record.intended_ns) / kNsPerS);
    const std::string error =
        record.error >= 0 ? recording.errors()[static_cast<size_t>(record.error)] : "";
    json["errors"].push_back(error);
    if (!error.empty())
      json["failed_requests"].push_back({{"index", record.index}, {"error", error}});
    if (i >= recording.details().size()) continue;
    json["itls"].push_back(recording.details()[i].inter_token_s);
    json["generated_texts"].push_back(recording.details()[i].text);
  }
}

}  // namespace moed::load
