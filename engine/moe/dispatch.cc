#include "engine/moe/dispatch.h"

#include <algorithm>
#include <cstddef>
#include <numeric>

#include "config/base/check.h"
#include "config/base/status_macros.h"

namespace moed {
namespace {

void Upload(kernels::Backend& backend, const std::vector<int32_t>& host,
            const kernels::Buffer& device) {
  const auto bytes = static_cast<int64_t>(host.size() * sizeof(int32_t));
  MOED_CHECK(bytes <= device.size_bytes());
  if (bytes > 0) backend.CopyToDevice(device.data(), host.data(), bytes);
}

void UploadPlan(const MoeContext& context, const DispatchPlan& plan) {
  Upload(context.backend, plan.send_token, context.workspace.send_token);
  Upload(context.backend, plan.x_row, context.workspace.x_row);
  Upload(context.backend, plan.out_row, context.workspace.out_row);
  Upload(context.backend, plan.row_of, context.workspace.row_of);
}

}  // namespace

absl::StatusOr<std::span<const int32_t>> GatherTopkIds(const MoeContext& context,
                                                       const MoeLayerInput& input) {
  MoeWorkspace& workspace = context.workspace;
  const int64_t ids_bytes_per_token = context.config.top_k * static_cast<int64_t>(sizeof(int32_t));
  RowsToBytes(input.num_tokens_per_rank, ids_bytes_per_token, workspace.send_bytes);
  const int64_t bytes =
      std::accumulate(workspace.send_bytes.begin(), workspace.send_bytes.end(), int64_t{0});
  const kernels::Buffer* ids = &workspace.topk_ids;
  if (context.communicator.num_ranks() > 1) {
    ids = &workspace.all_topk_ids;
    const CollectiveTag tag = {.step_id = input.step_id, .layer = input.layer, .phase = "route"};
    MOED_RETURN_IF_ERROR(context.communicator.AllGatherV(workspace.topk_ids.data(),
                                                         workspace.send_bytes, ids->data(), tag));
    MOED_RETURN_IF_ERROR(context.communicator.Finish(tag));
  }
  const size_t num_ids = static_cast<size_t>(bytes) / sizeof(int32_t);
  context.backend.CopyToHost(workspace.host_topk_ids.data(), ids->data(), bytes);
  MOED_RETURN_IF_ERROR(context.backend.Synchronize());
  return std::span<const int32_t>(workspace.host_topk_ids).first(num_ids);
}

absl::StatusOr<kernels::TensorView> DispatchRows(const MoeContext& context,
                                                 const MoeLayerInput& input,
                                                 const DispatchPlan& plan) {
  UploadPlan(context, plan);
  if (context.communicator.num_ranks() == 1) return input.x;
  MoeWorkspace& workspace = context.workspace;
  const auto [x, dtype, num_tokens, hidden_size] = input.x;
  const int64_t row_bytes = hidden_size * static_cast<int64_t>(SizeBytes(dtype));
  const kernels::TensorView rows =
      RowsView(workspace.input_rows, dtype, num_tokens + plan.num_received(), hidden_size);
  const kernels::TensorView own = RowsView(workspace.input_rows, dtype, num_tokens, hidden_size);
  const kernels::TensorView sent =
      RowsView(workspace.send_rows, dtype, plan.num_sent(), hidden_size);
  if (own.rows > 0) {
    context.backend.GatherRows(
        {.src = input.x, .row_index = workspace.own_token.as<int32_t>(), .out = own});
  }
  if (sent.rows > 0) {
    context.backend.GatherRows(
        {.src = input.x, .row_index = workspace.send_token.as<int32_t>(), .out = sent});
  }
  RowsToBytes(plan.send_rows, row_bytes, workspace.send_bytes);
  RowsToBytes(plan.recv_rows, row_bytes, workspace.recv_bytes);
  MOED_RETURN_IF_ERROR(context.communicator.AllToAllV(
      sent.data, workspace.send_bytes, rows.as<std::byte>() + own.size_bytes(),
      workspace.recv_bytes, {.step_id = input.step_id, .layer = input.layer, .phase = "dispatch"}));
  return rows;
}

int64_t DispatchBytes(const DispatchPlan& plan, int64_t row_bytes) {
  const auto num_peers = static_cast<int64_t>(plan.send_rows.size()) - 1;
  const int64_t ids_bytes = int64_t{plan.num_tokens} * plan.top_k * int64_t{sizeof(int32_t)};
  return plan.num_sent() * row_bytes + num_peers * ids_bytes;
}

void RowsToBytes(std::span<const int32_t> rows, int64_t row_bytes, std::span<int64_t> out) {
  std::transform(rows.begin(), rows.end(), out.begin(),
                 [row_bytes](int32_t n) { return n * row_bytes; });
}

}  // namespace moed
