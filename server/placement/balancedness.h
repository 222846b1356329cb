#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/api/expert_placement.h"

namespace moed {

/// Rows that each rank's experts compute in one layer: [num_ranks]. `tokens_per_expert` is
/// [num_experts], rows routed to each logical expert. An expert's rows are taken as spread evenly
/// over its replicas, which is an estimate: tokens prefer the replica on their own rank.
std::vector<double> RowsPerRank(const ExpertPlacement::Layer& layer,
                                std::span<const int64_t> tokens_per_expert);

/// mean / max: 1 is perfect, 1 / size is one rank doing everything; 0 without traffic.
double Balancedness(std::span<const double> rows_per_rank);

/// Balancedness of every MoE layer: [num_moe_layers]. `tokens_per_expert` is
/// [num_moe_layers * num_experts].
std::vector<double> LayerBalancedness(const ExpertPlacement& placement,
                                      std::span<const int64_t> tokens_per_expert);

}  // namespace moed
