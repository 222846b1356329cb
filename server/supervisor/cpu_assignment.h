#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"

namespace moed {

/// The CPUs that this process may run on, ascending.
absl::StatusOr<std::vector<int32_t>> AllowedCpus();

/// Rank r gets allowed[r * threads_per_rank ...], threads_per_rank of them; all ranks get none (no
/// pinning) when there are not enough for everyone. Returns [num_ranks] lists.
std::vector<std::vector<int32_t>> AssignCpus(const std::vector<int32_t>& allowed, int32_t num_ranks,
                                             int32_t threads_per_rank);

}  // namespace moed
