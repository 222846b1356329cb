#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"

namespace moed {

/// The CPUs that this process may run on, ascending.
absl::StatusOr<std::vector<int32_t>> AllowedCpus();

/// How many CPUs this process can keep busy: those it may run on, or fewer if its control groups
/// give it less time than that (the CPU limit of a container), rounded down; at least 1.
absl::StatusOr<int32_t> NumUsableCpus();

/// Rank r gets allowed[r * threads_per_rank ...], threads_per_rank of them; all ranks get none (no
/// pinning) when there are not enough for everyone. Returns [num_ranks] lists.
std::vector<std::vector<int32_t>> AssignCpus(const std::vector<int32_t>& allowed, int32_t num_ranks,
                                             int32_t threads_per_rank);

}  // namespace moed
