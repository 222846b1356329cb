#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "config/model_config.h"
#include "engine/api/expert_placement.h"
#include "engine/api/step.h"
#include "engine/runtime/local_engine.h"

namespace moed {

/// What a plan must keep to on one rank; fixed after load.
struct StepLimits {
  int32_t rank = 0;
  int32_t num_ranks = 1;
  uint64_t placement_epoch = 0;
  int32_t vocab_size = 0;
  int32_t num_valid_tokens = 0;  // ids from here on have no token
  int32_t block_size = 0;
  int32_t num_blocks = 0;
  int32_t max_model_len = 0;           // positions
  int32_t max_tokens_per_step = 0;     // of every rank
  int32_t max_sequences_per_step = 0;  // of this rank

  /// Most blocks that a block table may have.
  int32_t max_blocks_per_sequence() const { return (max_model_len + block_size - 1) / block_size; }
};

/// Fills in the defaults of `options` and checks them, the placement and the model against each
/// other. INVALID_ARGUMENT names the option, what was seen and what was expected.
absl::StatusOr<StepLimits> ResolveStepLimits(const ModelConfig& config,
                                             const ExpertPlacement& placement, int32_t rank,
                                             const LocalEngineOptions& options);

/// INVALID_ARGUMENT naming the slice and the field at fault, unless every index, length and
/// parameter of the plan is within the limits, so that executing it cannot touch memory it should
/// not. Pure.
absl::Status ValidateStepPlan(const StepPlan& plan, const StepLimits& limits);

}  // namespace moed
