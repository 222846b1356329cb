#include <algorithm>
#include <numeric>

#include "client/load/report/result_json.h"

namespace moed::load {
namespace {

using nlohmann::ordered_json;

std::vector<double> RowsBetween(const ServerSample& before, const ServerSample& after) {
  std::vector<double> rows;
  if (before.rows_per_rank.size() != after.rows_per_rank.size()) return rows;
  for (size_t rank = 0; rank < after.rows_per_rank.size(); ++rank) {
    rows.push_back(static_cast<double>(
        std::max<int64_t>(0, after.rows_per_rank[rank] - before.rows_per_rank[rank])));
  }
  return rows;
}

// Part of the time of the steps that a rank spent in exchanges, waiting included.
double ExchangeShare(const ServerSample& before, const ServerSample& after) {
  const double steps = after.step_seconds - before.step_seconds;
  const double exchange = after.exchange_seconds - before.exchange_seconds;
  const double ranks = static_cast<double>(std::max<size_t>(1, after.rows_per_rank.size()));
  return steps > 0 ? std::clamp(exchange / ranks / steps, 0.0, 1.0) : 0;
}

double WaitShare(const ServerSample& before, const ServerSample& after) {
  const double steps = after.step_seconds - before.step_seconds;
  const double wait = after.wait_seconds - before.wait_seconds;
  const double ranks = static_cast<double>(std::max<size_t>(1, after.rows_per_rank.size()));
  return steps > 0 ? std::clamp(wait / ranks / steps, 0.0, 1.0) : 0;
}

ordered_json BetweenJson(const ServerSample& before, const ServerSample& after) {
  ordered_json out = {{"seconds", after.seconds}};
  const double elapsed = std::max(1e-9, after.seconds - before.seconds);
  if (after.has_status && before.has_status) {
    out["running"] = after.num_running;
    out["waiting"] = after.num_waiting;
    out["kv_used_ratio"] = after.kv_used_ratio;
    out["generated_tokens_per_s"] =
        static_cast<double>(after.num_generated_tokens - before.num_generated_tokens) / elapsed;
    out["steps_per_s"] = static_cast<double>(after.num_steps - before.num_steps) / elapsed;
  }
  if (after.has_experts && before.has_experts) {
    const std::vector<double> rows = RowsBetween(before, after);
    if (std::accumulate(rows.begin(), rows.end(), 0.0) > 0) out["rows_per_rank"] = rows;
    out["exchange_bytes_per_s"] =
        static_cast<double>(after.dispatch_bytes + after.combine_bytes - before.dispatch_bytes -
                            before.combine_bytes) /
        elapsed;
  }
  if (after.has_metrics && before.has_metrics && after.step_seconds > before.step_seconds) {
    out["exchange_share"] = ExchangeShare(before, after);
    out["exchange_wait_share"] = WaitShare(before, after);
  }
  return out;
}

ordered_json ExpertsJson(const ExpertCounts& counts) {
  ordered_json out = {{"num_experts", counts.num_experts},
                      {"num_ranks", counts.num_ranks},
                      {"layers", ordered_json::array()}};
  for (size_t layer = 0; layer < counts.rows.size(); ++layer) {
    const std::vector<double> rows = RowsPerRank(counts, layer);
    out["layers"].push_back({{"layer", counts.layers[layer]},
                             {"rows_per_expert", counts.rows[layer]},
                             {"rows_per_rank", rows},
                             {"balancedness", Balancedness(rows)}});
  }
  const LayerBalancedness mean = MeanOverLayers(counts);
  out["mean_layer_balancedness"] = mean.of_ranks;
  out["mean_layer_expert_balancedness"] = mean.of_experts;
  return out;
}

}  // namespace

ordered_json ToJson(const ServerRecording& recording) {
  ordered_json out;
  out["problem"] = recording.problem;
  out["samples"] = ordered_json::array();
  if (recording.samples.empty()) return out;
  for (size_t i = 1; i < recording.samples.size(); ++i) {
    const ServerSample& sample = recording.samples[i];
    out["samples"].push_back(BetweenJson(recording.samples[i - 1], sample));
    if (sample.num_new_rows > 0) {
      out["samples"].back()["balancedness"] = sample.balancedness;
      out["samples"].back()["expert_balancedness"] = sample.expert_balancedness;
    }
  }
  const ServerSample& first = recording.samples.front();
  const ServerSample& last = recording.samples.back();
  out["whole_run"] = BetweenJson(first, last);
  out["whole_run"]["steps"] = last.num_steps - first.num_steps;
  out["whole_run"]["preemptions"] = last.num_preemptions - first.num_preemptions;
  const int64_t queries = last.prefix_cache_queries - first.prefix_cache_queries;
  const int64_t hits = last.prefix_cache_hits - first.prefix_cache_hits;
  out["whole_run"]["prefix_cache_hit_ratio"] =
      queries > 0 ? static_cast<double>(hits) / static_cast<double>(queries) : 0;
  if (recording.experts_after.num_experts > 0) {
    out["experts"] = ExpertsJson(Since(recording.experts_before, recording.experts_after));
  }
  return out;
}

}  // namespace moed::load
