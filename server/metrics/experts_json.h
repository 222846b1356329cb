#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "engine/api/expert_placement.h"
#include "server/metrics/server_stats.h"

namespace moed {

/// The full matrix of expert load, which is too large for metrics, as JSON for the status page:
/// {"num_experts", "layers": [{"layer", "tokens": [num_experts], "slots": [[expert, rank], ...]}]}.
/// `moe_layers` are the layers' indices in the model, in the order of the placement. Pure.
std::string ExpertsJson(const ServerStats& stats, const ExpertPlacement& placement,
                        std::span<const int32_t> moe_layers);

}  // namespace moed
