#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace moed {

/// Bytes that this process and its children could still take without swapping or being killed: what
/// /proc/meminfo calls available, and what every memory cgroup (v1 or v2) above the process leaves;
/// the least of them. Page cache counts as available. `root` goes before all paths (tests).
absl::StatusOr<int64_t> AvailableMemoryBytes(const std::string& root = "");

}  // namespace moed
