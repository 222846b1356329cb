#pragma once

#include "absl/status/status.h"
#include "engine/moe/dispatch_plan.h"
#include "engine/moe/moe_layer.h"
#include "engine/moe/moe_workspace.h"

namespace moed {

/// Sends the experts' output rows home, unreduced, and adds to each own token's hidden state
/// residual_multiplier times the sum of its rows in the router's order (design.md, section 3, rule
/// 3).
absl::Status CombineRows(const MoeContext& context, const MoeLayerInput& input,
                         const DispatchPlan& plan);

/// Bytes that this rank sends to others in CombineRows.
int64_t CombineBytes(const DispatchPlan& plan, int64_t row_bytes);

}  // namespace moed
