#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/cpu/kernel_table.h"

namespace moed::kernels::cpu {

/// The instruction sets that this build has and this machine (CPU and operating system) can run,
/// the best first. The last is "portable".
std::vector<KernelTable> AvailableInstructionSets();

/// The one of that name, or the best for "". INVALID_ARGUMENT if this machine lacks it or nobody
/// knows it.
absl::StatusOr<KernelTable> FindInstructionSet(const std::string& name);

}  // namespace moed::kernels::cpu
