#pragma once

#include <cstdint>

#include "config/model_config.h"
#include "engine/api/expert_placement.h"

namespace moed {

/// How a test spreads experts over ranks.
enum class PlacementKind : uint8_t {
  kLinear,
  kRoundRobin,
  kShuffled,    // any expert anywhere, another number on every rank, perhaps none
  kReplicated,  // as shuffled, and about half of the experts have copies on other ranks
};

/// The placement of a kind for a model; random ones are a function of the seed.
ExpertPlacement MakeTestPlacement(PlacementKind kind, const ModelConfig& config, int32_t num_ranks,
                                  uint64_t seed = 1);

}  // namespace moed
