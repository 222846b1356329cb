#include "engine/moe/single_rank.h"

#include <numeric>
#include <vector>

#include "config/base/check.h"

namespace moed {
namespace {

using kernels::TensorView;

/// Groups the rows of all tokens by expert slot.
void PlanRows(const MoeContext& context, const MoeLayerInput& input) {
  const ModelConfig& config = context.config;
  const MoeWorkspace& workspace = context.workspace;
  const int64_t first = input.moe_layer * config.num_experts;
  context.backend.PlanExperts(
      {.topk_ids = workspace.topk_ids.as<int32_t>(),
       .num_tokens = input.x.rows,
       .top_k = static_cast<int32_t>(config.top_k),
       .num_experts = static_cast<int32_t>(config.num_experts),
       .slot_of_expert = workspace.slot_of_expert.as<int32_t>() + first,
       .num_slots = static_cast<int32_t>(input.weights->experts->num_experts()),
       .num_counted_tokens = input.num_counted_tokens,
       .expert_offsets = workspace.expert_offsets.as<int32_t>(),
       .x_row = workspace.x_row.as<int32_t>(),
       .out_row = workspace.out_row.as<int32_t>(),
       .tokens_per_expert = workspace.tokens_per_expert.as<int32_t>() + first});
}

}  // namespace

void UploadSingleRankArrays(const MoeContext& context, std::span<const ExpertSlots> slots) {
  MoeWorkspace& workspace = context.workspace;
  std::vector<int32_t> slot_of_expert;
  for (const ExpertSlots& layer : slots) {
    for (int32_t expert = 0; expert < layer.num_experts(); ++expert) {
      slot_of_expert.push_back(layer.Choose(expert, 0, 0, 0));
    }
  }
  const int64_t slot_bytes = static_cast<int64_t>(slot_of_expert.size() * sizeof(int32_t));
  MOED_CHECK(slot_bytes == workspace.slot_of_expert.size_bytes());
  context.backend.CopyToDevice(workspace.slot_of_expert.data(), slot_of_expert.data(), slot_bytes);
  std::vector<int32_t> row_of(static_cast<size_t>(workspace.row_of.size_bytes()) / sizeof(int32_t));
  std::iota(row_of.begin(), row_of.end(), 0);
  context.backend.CopyToDevice(workspace.row_of.data(), row_of.data(),
                               workspace.row_of.size_bytes());
}

void RunAllExperts(const MoeContext& context, const MoeLayerInput& input) {
  const int64_t num_tokens = input.x.rows;
  if (num_tokens == 0) return;
  const ModelConfig& config = context.config;
  const MoeWorkspace& workspace = context.workspace;
  const int64_t num_rows = num_tokens * config.top_k;
  const TensorView gate_up =
      RowsView(workspace.gate_up, input.x.dtype, num_rows, config.moe_intermediate_size);
  const TensorView rows = RowsView(workspace.output_rows, input.x.dtype, num_rows, input.x.cols);
  PlanRows(context, input);
  context.backend.ExpertsGateUp({.x = input.x,
                                 .x_row = workspace.x_row.as<int32_t>(),
                                 .experts = input.weights->experts.get(),
                                 .backend_offsets = workspace.expert_offsets.as<int32_t>(),
                                 .max_rows_per_expert = num_tokens,
                                 .out = gate_up});
  context.backend.ExpertsDown({.x = gate_up,
                               .experts = input.weights->experts.get(),
                               .backend_offsets = workspace.expert_offsets.as<int32_t>(),
                               .max_rows_per_expert = num_tokens,
                               .out_row = workspace.out_row.as<int32_t>(),
                               .out = rows});
  context.backend.Combine({.rows = rows,
                           .row_of = workspace.row_of.as<int32_t>(),
                           .topk_weights = workspace.topk_weights.as<float>(),
                           .top_k = static_cast<int32_t>(config.top_k),
                           .scale = static_cast<float>(config.residual_multiplier),
                           .hidden = input.hidden});
}

void AddTokensPerExpert(const MoeContext& context, StepResult& result) {
  const kernels::Buffer& counts = context.workspace.tokens_per_expert;
  std::vector<int32_t> step(static_cast<size_t>(counts.size_bytes()) / sizeof(int32_t));
  context.backend.CopyToHost(step.data(), counts.data(), counts.size_bytes());
  for (size_t i = 0; i < step.size(); ++i) result.tokens_per_expert[i] += step[i];
}

}  // namespace moed
