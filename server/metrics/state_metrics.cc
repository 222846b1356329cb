#include "server/metrics/state_metrics.h"

#include <algorithm>
#include <functional>
#include <map>
#include <numeric>
#include <string>

#include "server/placement/balancedness.h"

namespace moed {
namespace {

constexpr absl::Duration kExpertWindow = absl::Seconds(10);

constexpr ServingState kStates[] = {ServingState::kLoading, ServingState::kServing,
                                    ServingState::kDraining, ServingState::kRecovering,
                                    ServingState::kStopped};

prometheus::Gauge& RankBytes(MetricRegistry& registry, const std::string& rank, const char* kind) {
  return registry.Gauges("moed_rank_memory_bytes", "Memory a rank holds, by what it is for.")
      .Add({{"ep_rank", rank}, {"kind", kind}});
}

// The largest shares of a layer's rows, descending; fewer than `num` where the layer has fewer
// experts.
std::vector<double> TopShares(std::span<const int64_t> tokens_per_expert, size_t num) {
  std::vector<int64_t> top(std::min(num, tokens_per_expert.size()));
  std::ranges::partial_sort_copy(tokens_per_expert, top, std::greater<>());
  const auto sum = static_cast<double>(
      std::accumulate(tokens_per_expert.begin(), tokens_per_expert.end(), int64_t{0}));
  std::vector<double> shares;
  for (const int64_t tokens : top) shares.push_back(sum > 0 ? tokens / sum : 0);
  return shares;
}

}  // namespace

StateMetrics::StateMetrics(MetricRegistry& registry, const ExpertPlacement& placement,
                           std::span<const int32_t> moe_layers)
    : placement_(placement),
      window_(kExpertWindow),
      running_(registry.OneGauge("moed_requests_running", "Sequences being computed.")),
      waiting_(registry.OneGauge("moed_requests_waiting", "Sequences waiting to be computed.")),
      requests_(registry.OneGauge("moed_requests_accepted", "Requests accepted and not ended.")),
      kv_cache_usage_(registry.OneGauge("moed_kv_cache_usage_ratio",
                                        "Used part of the KV blocks of all ranks, 0 to 1.")),
      step_in_progress_(registry.OneGauge("moed_step_in_progress_seconds",
                                          "How long the step being executed has taken so far.")),
      placement_version_(registry.OneGauge("moed_eplb_placement_version",
                                           "Epoch of the expert placement in use.")),
      prompt_tokens_(registry.OneCounter("moed_prompt_tokens_total", "Prompt tokens taken in.")),
      generation_tokens_(registry.OneCounter("moed_generation_tokens_total", "Tokens generated.")),
      prefix_queries_(registry.OneCounter("moed_prefix_cache_queries_total",
                                          "Prompt tokens looked up in the prefix cache.")),
      prefix_hits_(registry.OneCounter("moed_prefix_cache_hits_total",
                                       "Prompt tokens found in the prefix cache.")),
      preemptions_(registry.OneCounter("moed_preemptions_total",
                                       "Sequences set back to waiting for lack of KV blocks.")),
      group_restarts_(
          registry.OneCounter("moed_group_restarts_total", "Restarts of the engine group.")) {
  for (int32_t rank = 0; rank < placement.num_ranks; ++rank) AddRank(registry, rank);
  for (size_t i = 0; i < std::min(placement.layers.size(), moe_layers.size()); ++i) {
    AddLayer(registry, placement.layers[i], moe_layers[i]);
  }
  for (const ServingState state : kStates) {
    states_.push_back(&registry.Gauges("moed_serving_state", "1 for the state the daemon is in.")
                           .Add({{"state", std::string(Name(state))}}));
  }
}

void StateMetrics::AddRank(MetricRegistry& registry, int32_t rank) {
  const std::string name = std::to_string(rank);
  const auto gauge = [&](const char* metric, const char* help) -> prometheus::Gauge& {
    return registry.Gauges(metric, help).Add({{"ep_rank", name}});
  };
  ranks_.push_back(
      {.up = gauge("moed_rank_up", "1 while the rank's engine lives and is loaded."),
       .running = gauge("moed_rank_sequences_running", "Sequences being computed by one rank."),
       .kv_cache_usage =
           gauge("moed_rank_kv_cache_usage_ratio", "Used part of one rank's KV blocks, 0 to 1."),
       .weights_loaded =
           gauge("moed_weights_loaded_ratio", "Loaded part of a rank's weights, 0 to 1."),
       .weight_bytes = RankBytes(registry, name, "weights"),
       .kv_bytes = RankBytes(registry, name, "kv"),
       .exchange_bytes = RankBytes(registry, name, "exchange"),
       .workspace_bytes = RankBytes(registry, name, "workspace"),
       .restarts = registry.Counters("moed_rank_restarts_total", "Starts of a rank's engine anew.")
                       .Add({{"ep_rank", name}})});
}

void StateMetrics::AddLayer(MetricRegistry& registry, const ExpertPlacement::Layer& layer,
                            int32_t index) {
  const std::string name = std::to_string(index);
  auto& shares = registry.Gauges("moed_moe_top_expert_share",
                                 "Share of a layer's rows that its busiest experts got lately.");
  auto& balancedness = registry.Gauges(
      "moed_moe_layer_balancedness_ratio",
      "Mean / max of a layer's rows per rank lately; 1 is perfect, 0 without traffic.");
  auto& metrics = layers_.emplace_back(
      OfLayer{.top_shares = {}, .balancedness = balancedness.Add({{"layer", name}})});
  const size_t num_top = std::min<size_t>(kNumTopExperts, placement_.num_experts);
  for (size_t top = 1; top <= num_top; ++top) {
    metrics.top_shares.push_back(&shares.Add({{"layer", name}, {"top", std::to_string(top)}}));
  }
  std::map<int32_t, int> copies;
  for (const int32_t expert : layer.slot_to_expert) ++copies[expert];
  const auto by_count = [](const auto& a, const auto& b) { return a.second < b.second; };
  const auto [least, most] = std::minmax_element(copies.begin(), copies.end(), by_count);
  auto& replicas = registry.Gauges("moed_expert_replicas", "Physical copies of a layer's experts.");
  replicas.Add({{"layer", name}, {"stat", "min"}}).Set(least->second);
  replicas.Add({{"layer", name}, {"stat", "max"}}).Set(most->second);
}

void StateMetrics::Update(const ServerStats& stats, absl::Time now) {
  UpdateLoad(stats, now);
  UpdateCounters(stats);
  UpdateExperts(stats, now);
}

void StateMetrics::UpdateLoad(const ServerStats& stats, absl::Time now) {
  for (size_t i = 0; i < states_.size(); ++i) states_[i]->Set(kStates[i] == stats.state ? 1 : 0);
  running_.Set(stats.num_running_sequences);
  waiting_.Set(stats.num_waiting_sequences);
  requests_.Set(stats.num_requests);
  placement_version_.Set(static_cast<double>(stats.placement_epoch));
  step_in_progress_.Set(
      std::max(0.0, absl::ToDoubleSeconds(now - std::min(now, stats.step_started))));
  double num_used = 0;
  double num_blocks = 0;
  for (size_t r = 0; r < std::min(stats.ranks.size(), ranks_.size()); ++r) {
    const RankStats& rank = stats.ranks[r];
    const double used = rank.num_blocks - rank.num_free_blocks;
    ranks_[r].running.Set(rank.num_running_sequences);
    ranks_[r].kv_cache_usage.Set(rank.num_blocks > 0 ? used / rank.num_blocks : 0);
    num_used += used;
    num_blocks += rank.num_blocks;
  }
  kv_cache_usage_.Set(num_blocks > 0 ? num_used / num_blocks : 0);
}

void StateMetrics::UpdateCounters(const ServerStats& stats) {
  const auto raise = [](prometheus::Counter& counter, int64_t total) {
    RaiseTo(counter, static_cast<double>(total));
  };
  raise(prompt_tokens_, stats.num_prompt_tokens);
  raise(generation_tokens_, stats.num_generated_tokens);
  raise(prefix_queries_, stats.prefix_cache_queries);
  raise(prefix_hits_, stats.prefix_cache_hits);
  raise(preemptions_, stats.num_preemptions);
  raise(group_restarts_, stats.num_group_restarts);
}

void StateMetrics::UpdateExperts(const ServerStats& stats, absl::Time now) {
  const auto num_experts = static_cast<size_t>(placement_.num_experts);
  if (stats.tokens_per_expert.size() != placement_.layers.size() * num_experts) return;
  const std::span<const int64_t> recent = window_.Look(stats.tokens_per_expert, now);
  for (size_t i = 0; i < layers_.size(); ++i) {
    const auto tokens = recent.subspan(i * num_experts, num_experts);
    const std::vector<double> shares = TopShares(tokens, layers_[i].top_shares.size());
    for (size_t k = 0; k < shares.size(); ++k) layers_[i].top_shares[k]->Set(shares[k]);
    layers_[i].balancedness.Set(Balancedness(RowsPerRank(placement_.layers[i], tokens)));
  }
}

void StateMetrics::UpdateRanks(const std::vector<RankView>& ranks) {
  for (size_t r = 0; r < std::min(ranks.size(), ranks_.size()); ++r) {
    const RankView& view = ranks[r];
    const OfRank& metrics = ranks_[r];
    metrics.up.Set(view.up ? 1 : 0);
    metrics.weights_loaded.Set(view.weights_loaded_ratio);
    metrics.weight_bytes.Set(static_cast<double>(view.info.weight_bytes));
    metrics.kv_bytes.Set(static_cast<double>(view.info.kv_bytes));
    metrics.exchange_bytes.Set(static_cast<double>(view.info.exchange_bytes));
    metrics.workspace_bytes.Set(static_cast<double>(view.info.workspace_bytes));
    RaiseTo(metrics.restarts, view.num_restarts);
  }
}

}  // namespace moed
