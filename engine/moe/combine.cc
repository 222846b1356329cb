#include "engine/moe/combine.h"

#include "config/base/status_macros.h"
#include "engine/moe/dispatch.h"

namespace moed {
namespace {

/// The rows to return lie behind all rows of own tokens; rows that return land at the very front.
absl::Status ReturnRows(const MoeContext& context, const MoeLayerInput& input,
                        const DispatchPlan& plan) {
  MoeWorkspace& workspace = context.workspace;
  const int64_t row_bytes = input.x.cols * static_cast<int64_t>(SizeBytes(input.x.dtype));
  RowsToBytes(plan.return_rows, row_bytes, workspace.send_bytes);
  RowsToBytes(plan.home_rows, row_bytes, workspace.recv_bytes);
  auto* rows = workspace.output_rows.as<std::byte>();
  return context.communicator.AllToAllV(
      rows + plan.num_own_output_rows() * row_bytes, workspace.send_bytes, rows,
      workspace.recv_bytes, {.step_id = input.step_id, .layer = input.layer, .phase = "combine"});
}

}  // namespace

absl::Status CombineRows(const MoeContext& context, const MoeLayerInput& input,
                         const DispatchPlan& plan) {
  if (context.communicator.num_ranks() > 1) {
    MOED_RETURN_IF_ERROR(ReturnRows(context, input, plan));
  }
  if (plan.num_tokens == 0) return absl::OkStatus();
  context.backend.Combine({.rows = RowsView(context.workspace.output_rows, input.x.dtype,
                                            plan.num_own_output_rows(), input.x.cols),
                           .row_of = context.workspace.row_of.as<int32_t>(),
                           .topk_weights = context.workspace.topk_weights.as<float>(),
                           .top_k = plan.top_k,
                           .scale = static_cast<float>(context.config.residual_multiplier),
                           .hidden = input.hidden});
  return absl::OkStatus();
}

int64_t CombineBytes(const DispatchPlan& plan, int64_t row_bytes) {
  return plan.num_returned() * row_bytes;
}

}  // namespace moed
