#pragma once

#include "absl/status/status.h"
#include "engine/api/engine.h"
#include "engine/api/step.h"
#include "engine/rpc/engine_config.h"

namespace moed {

/// INTERNAL naming the field unless an engine became what its configuration says.
absl::Status CheckInfo(const EngineConfig& config, const EngineInfo& info);

/// INTERNAL unless a result answers this plan: same step, one token for each slice that asked, in
/// order.
absl::Status CheckResult(const StepPlan& plan, const StepResult& result);

}  // namespace moed
