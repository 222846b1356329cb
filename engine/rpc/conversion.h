#pragma once

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/api/engine.h"
#include "engine/api/expert_placement.h"
#include "engine/api/step.h"
#include "engine/rpc/engine_config.h"
#include "moed/engine/v1/engine.pb.h"

namespace moed {

/// Raised with every change of engine.proto; both ends must have the same.
inline constexpr int32_t kEngineProtocolVersion = 4;

/// Most bytes of one message in either direction: a plan with the token counts of many long
/// sequences.
inline constexpr int kMaxEngineMessageBytes = 1 << 30;

/// Structs to messages. Nothing is checked.
engine::v1::ConfigureRequest ToProto(const EngineConfig& config);
engine::v1::ExpertPlacement ToProto(const ExpertPlacement& placement);
engine::v1::EngineInfo ToProto(const EngineInfo& info);
engine::v1::StepPlan ToProto(const StepPlan& plan);
engine::v1::StepResult ToProto(const StepResult& result);

/// FAILED_PRECONDITION for another protocol version; INVALID_ARGUMENT for a dtype, a weight format,
/// a placement or a rank that makes no sense. The rest is checked by the engine that is made from
/// it.
absl::StatusOr<EngineConfig> FromProto(const engine::v1::ConfigureRequest& request);

/// Messages to structs. The values are checked by whoever uses them: the engine checks plans, the
/// daemon checks infos and results.
ExpertPlacement FromProto(const engine::v1::ExpertPlacement& placement);
EngineInfo FromProto(const engine::v1::EngineInfo& info);
StepPlan FromProto(const engine::v1::StepPlan& plan);
StepResult FromProto(const engine::v1::StepResult& result);

}  // namespace moed
