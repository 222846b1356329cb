#include "server/plan_report.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"

namespace moed {
namespace {

struct SlotRange {
  int32_t min = 0;
  int32_t max = 0;
};

// The fewest and the most experts of one layer on a rank.
SlotRange ExpertsOfRank(const ExpertPlacement& placement, size_t rank) {
  SlotRange range = {.min = placement.layers.empty() ? 0 : placement.num_experts, .max = 0};
  for (const ExpertPlacement::Layer& layer : placement.layers) {
    const int32_t num_slots = layer.rank_slot_begin[rank + 1] - layer.rank_slot_begin[rank];
    range.min = std::min(range.min, num_slots);
    range.max = std::max(range.max, num_slots);
  }
  return range;
}

std::string ToString(const SlotRange& range) {
  return range.min == range.max ? absl::StrFormat("%d", range.max)
                                : absl::StrFormat("%d-%d", range.min, range.max);
}

std::string DescribeRanks(const LaunchPlan& plan) {
  std::string out = absl::StrFormat("%4s %12s %12s %12s %12s %12s %9s\n", "rank", "weights", "KV",
                                    "exchange", "workspace", "total", "experts");
  for (size_t rank = 0; rank < plan.memory.ranks.size(); ++rank) {
    const EngineMemory& memory = plan.memory.ranks[rank];
    out += absl::StrFormat(
        "%4d %12s %12s %12s %12s %12s %9s\n", rank, FormatBytes(memory.weight_bytes),
        FormatBytes(plan.memory.kv_bytes(rank)), FormatBytes(memory.exchange_bytes),
        FormatBytes(memory.workspace_bytes), FormatBytes(plan.memory.rank_bytes(rank)),
        ToString(ExpertsOfRank(plan.placement, rank)));
  }
  return out;
}

std::string DescribeModel(const LaunchPlan& plan) {
  const ModelConfig& config = plan.model.config;
  return absl::StrFormat(
      "model       %s (%s) in %s\n"
      "            %d layers, %d of them MoE, %d experts, top %d, %s, %s numerics\n"
      "ranks       %d on %s, %d threads each\n",
      plan.model.name, config.architecture, plan.model_dir, config.num_layers,
      config.num_moe_layers(), config.num_experts, config.top_k, plan.model.dtype,
      Name(plan.engine.numerics), plan.placement.num_ranks, plan.engine.device,
      plan.engine.num_threads);
}

nlohmann::json RankJson(const LaunchPlan& plan, size_t rank) {
  const EngineMemory& memory = plan.memory.ranks[rank];
  const SlotRange experts = ExpertsOfRank(plan.placement, rank);
  return {{"rank", rank},
          {"weight_bytes", memory.weight_bytes},
          {"kv_bytes", plan.memory.kv_bytes(rank)},
          {"exchange_bytes", memory.exchange_bytes},
          {"workspace_bytes", memory.workspace_bytes},
          {"total_bytes", plan.memory.rank_bytes(rank)},
          {"min_experts_per_layer", experts.min},
          {"max_experts_per_layer", experts.max}};
}

}  // namespace

std::string DescribePlan(const LaunchPlan& plan) {
  const MemoryPlan& memory = plan.memory;
  return DescribeModel(plan) +
         absl::StrFormat(
             "KV          %d blocks of %d tokens per rank\n"
             "batch       up to %d tokens and %d sequences per rank and step\n"
             "            %d sequences of %d tokens fit into one rank's KV blocks at once\n\n",
             memory.num_blocks, memory.block_size, plan.engine.max_tokens_per_step,
             plan.engine.max_sequences_per_step, memory.num_full_sequences(),
             memory.max_model_len) +
         DescribeRanks(plan) +
         absl::StrFormat("\nall ranks need %s; %s are available, %s of them stay free\n",
                         FormatBytes(memory.total_bytes()), FormatBytes(memory.available_bytes),
                         FormatBytes(memory.reserved_bytes));
}

std::string PlanJson(const LaunchPlan& plan) {
  nlohmann::json ranks = nlohmann::json::array();
  for (size_t rank = 0; rank < plan.memory.ranks.size(); ++rank) {
    ranks.push_back(RankJson(plan, rank));
  }
  const nlohmann::json out = {{"model", plan.model.name},
                              {"model_dir", plan.model_dir},
                              {"architecture", plan.model.config.architecture},
                              {"num_layers", plan.model.config.num_layers},
                              {"num_moe_layers", plan.model.config.num_moe_layers()},
                              {"num_experts", plan.model.config.num_experts},
                              {"top_k", plan.model.config.top_k},
                              {"dtype", plan.model.dtype},
                              {"numerics", Name(plan.engine.numerics)},
                              {"num_ranks", plan.placement.num_ranks},
                              {"num_threads", plan.engine.num_threads},
                              {"block_size", plan.memory.block_size},
                              {"num_blocks", plan.memory.num_blocks},
                              {"max_model_len", plan.memory.max_model_len},
                              {"max_tokens_per_step", plan.engine.max_tokens_per_step},
                              {"max_sequences_per_step", plan.engine.max_sequences_per_step},
                              {"num_full_sequences", plan.memory.num_full_sequences()},
                              {"total_bytes", plan.memory.total_bytes()},
                              {"available_bytes", plan.memory.available_bytes},
                              {"reserved_bytes", plan.memory.reserved_bytes},
                              {"ranks", ranks}};
  return out.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

}  // namespace moed
