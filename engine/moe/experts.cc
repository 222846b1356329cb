#include "engine/moe/experts.h"

#include <array>

#include "config/base/check.h"

namespace moed {
namespace {

/// The logit of the shared expert's gate for each token, or null for a model without.
const float* SharedGateLogits(const MoeContext& context, const MoeLayerInput& input) {
  if (input.weights->shared_gate == nullptr) return nullptr;
  const kernels::TensorView logits =
      RowsView(context.workspace.shared_gate_logits, DType::kF32, input.x.rows, 1);
  context.backend.Linear(
      {.x = input.x, .weights = input.weights->shared_gate.get(), .out = logits});
  return logits.as<float>();
}

}  // namespace

void RunExperts(const MoeContext& context, const MoeLayerInput& input, const DispatchPlan& plan,
                kernels::TensorView input_rows) {
  if (plan.num_expert_rows() == 0) return;
  const kernels::ExpertWeights* experts = input.weights->experts.get();
  MOED_CHECK(experts != nullptr &&
             experts->num_experts() + 1 == static_cast<int64_t>(plan.expert_offsets.size()));
  const MoeWorkspace& workspace = context.workspace;
  const kernels::TensorView gate_up =
      RowsView(workspace.gate_up, input_rows.dtype, plan.num_expert_rows(),
               context.config.moe_intermediate_size);
  context.backend.ExpertsGateUp({.x = input_rows,
                                 .x_row = workspace.x_row.as<int32_t>(),
                                 .experts = experts,
                                 .expert_offsets = plan.expert_offsets,
                                 .out = gate_up});
  context.backend.ExpertsDown(
      {.x = gate_up,
       .experts = experts,
       .expert_offsets = plan.expert_offsets,
       .out_row = workspace.out_row.as<int32_t>(),
       .out = RowsView(workspace.output_rows, input_rows.dtype,
                       plan.num_own_output_rows() + plan.num_returned(), input_rows.cols)});
}

void AddSharedExpert(const MoeContext& context, const MoeLayerInput& input) {
  const kernels::ExpertWeights* shared = input.weights->shared.get();
  const int64_t num_tokens = input.x.rows;
  if (shared == nullptr || num_tokens == 0) return;
  const std::array<int32_t, 2> all_rows = {0, static_cast<int32_t>(num_tokens)};
  const MoeWorkspace& workspace = context.workspace;
  const kernels::TensorView gate_up = RowsView(workspace.shared_gate_up, input.x.dtype, num_tokens,
                                               context.config.shared_intermediate_size);
  const kernels::TensorView rows =
      RowsView(workspace.shared_rows, input.x.dtype, num_tokens, input.x.cols);
  context.backend.ExpertsGateUp(
      {.x = input.x, .experts = shared, .expert_offsets = all_rows, .out = gate_up});
  context.backend.ExpertsDown(
      {.x = gate_up, .experts = shared, .expert_offsets = all_rows, .out = rows});
  context.backend.AddRows({.rows = rows,
                           .gate_logits = SharedGateLogits(context, input),
                           .scale = static_cast<float>(context.config.residual_multiplier),
                           .hidden = input.hidden});
}

}  // namespace moed
