#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "engine/moe/moe_workspace.h"

namespace moed {

/// Measures the exchange of one layer both ways, at 1, 2, 4, ... tokens per rank up to max_tokens,
/// and returns the most tokens at which gathering all rows (all_gather.h) is not slower than
/// sending each where it must go (dispatch.h), below which it never was; 0 for never. Rank 0's
/// times count, so all ranks return the same; rank 0 logs them. All ranks must call it, when
/// nothing uses the scratch. Errors are those of the communicator.
absl::StatusOr<int32_t> MeasureCrossover(const MoeContext& context, int32_t max_tokens);

/// The share of tokens that some expert of a given other rank computes, when all choices are
/// equally likely: 1 - C(E - E/R, K) / C(E, K).
double ShareOfTokensSent(int64_t num_experts, int64_t top_k, int32_t num_ranks);

}  // namespace moed
