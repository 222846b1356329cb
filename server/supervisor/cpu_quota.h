#pragma once

#include <optional>
#include <string>

namespace moed {

/// How many CPUs' worth of time the control groups (v1 or v2) let this process use at once, the
/// least of all groups above it: the CPU limit of a container. Nothing without a limit. `root` goes
/// before all paths (tests).
std::optional<double> CpuQuota(const std::string& root = "");

}  // namespace moed
