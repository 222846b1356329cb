#pragma once

#include "engine/moe/moe_layer.h"
#include "engine/moe/moe_workspace.h"

namespace moed {

/// Fills topk_ids [T, K] and topk_weights [T, K] of the workspace from input.x [T, H].
void RouteTokens(const MoeContext& context, const MoeLayerInput& input);

}  // namespace moed
