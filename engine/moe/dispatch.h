#pragma once

#include <cstdint>
#include <span>

#include "absl/status/statusor.h"
#include "engine/moe/dispatch_plan.h"
#include "engine/moe/moe_layer.h"
#include "engine/moe/moe_workspace.h"

namespace moed {

/// The topk_ids of all ranks, in rank order, in host memory of the workspace.
absl::StatusOr<std::span<const int32_t>> GatherTopkIds(const MoeContext& context,
                                                       const MoeLayerInput& input);

/// Sends the plan's rows and returns the experts' input rows [num_tokens + num_received, H]: the
/// own tokens, then the received ones. With one rank that is input.x itself. Also uploads the
/// plan's index arrays into the workspace.
absl::StatusOr<kernels::TensorView> DispatchRows(const MoeContext& context,
                                                 const MoeLayerInput& input,
                                                 const DispatchPlan& plan);

/// Bytes that this rank sends to others in GatherTopkIds and DispatchRows.
int64_t DispatchBytes(const DispatchPlan& plan, int64_t row_bytes);

/// out[r] = rows[r] * row_bytes.
void RowsToBytes(std::span<const int32_t> rows, int64_t row_bytes, std::span<int64_t> out);

}  // namespace moed
