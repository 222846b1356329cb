#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "engine/api/expert_placement.h"

namespace moed {

/// The initial placement, of epoch 0: `spec` is "linear", "round_robin" or the path of a JSON file:
///
///   {"num_slots": S, "layers": {"0": [expert_id of slot 0, ..., of slot S - 1], "1": [...], ...}}
///
/// The keys of "layers" count the MoE layers of the model from 0; every one must be there. Slot s
/// lives on rank s * num_ranks / S, so ranks hold contiguous slots, as evenly as can be. Every
/// expert needs at least one slot; more are replicas, at most one on each rank. S is num_experts to
/// num_experts * num_ranks.
///
/// Errors: NOT_FOUND for a file that is not there; INVALID_ARGUMENT naming the file, the layer and
/// what is wrong. All counts are >= 1.
absl::StatusOr<ExpertPlacement> LoadPlacement(const std::string& spec, int32_t num_moe_layers,
                                              int32_t num_experts, int32_t num_ranks);

}  // namespace moed
