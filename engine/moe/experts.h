#pragma once

#include "engine/moe/dispatch_plan.h"
#include "engine/moe/moe_layer.h"
#include "engine/moe/moe_workspace.h"

namespace moed {

/// Runs this rank's experts over `input_rows` and puts each result where the combine wants it in
/// workspace.output_rows (DispatchPlan::out_row).
void RunExperts(const MoeContext& context, const MoeLayerInput& input, const DispatchPlan& plan,
                kernels::TensorView input_rows);

/// hidden += residual_multiplier * gate * shared_expert(x), for models that have one.
void AddSharedExpert(const MoeContext& context, const MoeLayerInput& input);

}  // namespace moed
