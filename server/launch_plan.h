#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "config/daemon_config.h"
#include "engine/api/expert_placement.h"
#include "engine/rpc/engine_config.h"
#include "server/memory_plan.h"
#include "server/rpc/served_model.h"
#include "server/tokenizer/tokenizer.h"

namespace moed {

/// Everything that is decided before anything is started. A value, but for the tokenizer.
struct LaunchPlan {
  std::string model_dir;
  ServedModel model;
  std::unique_ptr<Tokenizer> tokenizer;
  ExpertPlacement placement;
  MemoryPlan memory;
  EngineConfig engine;  // of every rank
};

/// Reads the model's small files (no weights) and decides. Errors name the file or the setting at
/// fault, or say how much memory is missing.
absl::StatusOr<LaunchPlan> MakeLaunchPlan(const DaemonConfig& config);

}  // namespace moed
