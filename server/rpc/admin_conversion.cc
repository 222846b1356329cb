#include "server/rpc/admin_conversion.h"

#include <cstdint>
#include <span>

#include "server/placement/balancedness.h"
#include "server/rpc/event_conversion.h"

namespace moed {
namespace {

v1::ServingState ToProto(ServingState state) {
  switch (state) {
    case ServingState::kLoading:
      return v1::SERVING_STATE_LOADING;
    case ServingState::kServing:
      return v1::SERVING_STATE_SERVING;
    case ServingState::kDraining:
    case ServingState::kStopped:
      return v1::SERVING_STATE_DRAINING;
    case ServingState::kRecovering:
      return v1::SERVING_STATE_RECOVERING;
  }
  return v1::SERVING_STATE_UNSPECIFIED;
}

void FillRank(const RankView& view, v1::RankStatus& out) {
  out.set_rank(view.info.rank);
  out.set_up(view.up);
  out.set_pid(view.pid);
  out.set_device(view.info.device);
  out.set_instruction_set(view.info.instruction_set);
  out.set_dtype(view.info.dtype);
  out.set_num_threads(view.info.num_threads);
  out.set_weight_bytes(view.info.weight_bytes);
  out.set_kv_bytes(view.info.kv_bytes);
  out.set_exchange_bytes(view.info.exchange_bytes);
  out.set_workspace_bytes(view.info.workspace_bytes);
  out.set_weights_loaded_ratio(view.weights_loaded_ratio);
  out.set_num_restarts(view.num_restarts);
}

void FillRankCounters(const RankStats& stats, v1::RankStatus& out) {
  out.set_num_blocks(stats.num_blocks);
  out.set_num_free_blocks(stats.num_free_blocks);
  out.set_num_cached_blocks(stats.num_cached_blocks);
  out.set_num_running_sequences(stats.num_running_sequences);
  out.set_num_expert_rows(stats.num_expert_rows);
}

double MeanPerStep(double seconds, int64_t num_steps) {
  return num_steps > 0 ? seconds / static_cast<double>(num_steps) : 0;
}

void FillSlots(const ExpertPlacement::Layer& layer, v1::LayerExperts& out) {
  for (size_t rank = 0; rank + 1 < layer.rank_slot_begin.size(); ++rank) {
    for (int32_t s = layer.rank_slot_begin[rank]; s < layer.rank_slot_begin[rank + 1]; ++s) {
      auto* slot = out.add_slots();
      slot->set_expert_id(layer.slot_to_expert[s]);
      slot->set_rank(static_cast<int32_t>(rank));
    }
  }
}

// Indices in the model of its MoE layers.
std::vector<int32_t> MoeLayers(const ModelConfig& config) {
  std::vector<int32_t> layers;
  for (size_t i = 0; i < config.layer_is_moe.size(); ++i) {
    if (config.layer_is_moe[i]) layers.push_back(static_cast<int32_t>(i));
  }
  return layers;
}

}  // namespace

v1::GetStatusResponse ToStatusResponse(const ServedModel& model, const ServerStats& stats,
                                       const std::vector<RankView>& ranks, absl::Duration uptime) {
  v1::GetStatusResponse out;
  out.set_state(ToProto(stats.state));
  out.set_version(model.server_version);
  out.set_model(model.name);
  out.set_uptime_seconds(absl::ToDoubleSeconds(uptime));
  out.set_num_ranks(static_cast<int32_t>(ranks.size()));
  out.set_num_running_sequences(stats.num_running_sequences);
  out.set_num_waiting_sequences(stats.num_waiting_sequences);
  out.set_num_steps(stats.steps.num_steps);
  out.set_num_prompt_tokens(stats.num_prompt_tokens);
  out.set_num_generated_tokens(stats.num_generated_tokens);
  out.set_num_preemptions(stats.num_preemptions);
  out.set_num_finished_requests(stats.num_finished_requests);
  out.set_prefix_cache_queries(stats.prefix_cache_queries);
  out.set_prefix_cache_hits(stats.prefix_cache_hits);
  out.set_placement_epoch(stats.placement_epoch);
  out.set_mean_plan_seconds(MeanPerStep(stats.steps.plan_seconds, stats.steps.num_steps));
  out.set_mean_step_seconds(MeanPerStep(stats.steps.step_seconds, stats.steps.num_steps));
  FillStepSeconds(stats.steps, *out.mutable_seconds());
  for (size_t r = 0; r < ranks.size(); ++r) {
    auto* rank = out.add_ranks();
    FillRank(ranks[r], *rank);
    if (r >= stats.ranks.size()) continue;
    FillRankCounters(stats.ranks[r], *rank);
    FillStepSeconds({.num_steps = stats.steps.num_steps,
                     .step_seconds = stats.ranks[r].times.total,
                     .times = stats.ranks[r].times},
                    *rank->mutable_seconds());
  }
  return out;
}

v1::GetExpertsResponse ToExpertsResponse(const ServedModel& model, const ServerStats& stats,
                                         const ExpertPlacement& placement) {
  v1::GetExpertsResponse out;
  out.set_placement_epoch(placement.epoch);
  out.set_num_experts(placement.num_experts);
  out.set_top_k(static_cast<int32_t>(model.config.top_k));
  out.set_dispatch_bytes(stats.dispatch_bytes);
  out.set_combine_bytes(stats.combine_bytes);
  const std::vector<int32_t> moe_layers = MoeLayers(model.config);
  const auto num_experts = static_cast<size_t>(placement.num_experts);
  std::vector<int64_t> tokens = stats.tokens_per_expert;
  tokens.resize(placement.layers.size() * num_experts);  // nothing is counted before the first step
  for (size_t i = 0; i < placement.layers.size(); ++i) {
    const std::span<const int64_t> of_layer(tokens.data() + i * num_experts, num_experts);
    auto* layer = out.add_layers();
    layer->set_layer(moe_layers[i]);
    layer->mutable_tokens_per_expert()->Add(of_layer.begin(), of_layer.end());
    layer->set_balancedness(Balancedness(RowsPerRank(placement.layers[i], of_layer)));
    FillSlots(placement.layers[i], *layer);
  }
  std::vector<double> rows;
  for (const RankStats& rank : stats.ranks) {
    out.add_rows_per_rank(rank.num_expert_rows);
    rows.push_back(static_cast<double>(rank.num_expert_rows));
  }
  out.set_balancedness(Balancedness(rows));
  return out;
}

}  // namespace moed
