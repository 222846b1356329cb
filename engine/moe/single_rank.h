#pragma once

#include "engine/api/step.h"
#include "engine/moe/dispatch_plan.h"
#include "engine/moe/moe_layer.h"
#include "engine/moe/moe_workspace.h"

/// The experts of one rank that has all of them. Nothing is exchanged, and the routing stays in
/// backend memory: the host waits for nothing, so that a whole step can be recorded.
namespace moed {

/// Fills the arrays of the workspace that no step changes: the slot of each expert, and where
/// combine finds the rows of a token.
void UploadSingleRankArrays(const MoeContext& context, std::span<const ExpertSlots> slots);

/// Adds residual_multiplier times the experts' part to the hidden state of every token, after
/// RouteTokens; leaves the layer's tokens_per_expert in the workspace.
void RunAllExperts(const MoeContext& context, const MoeLayerInput& input);

/// Waits for the backend. Adds what RunAllExperts left there in the step's layers.
void AddTokensPerExpert(const MoeContext& context, StepResult& result);

}  // namespace moed
