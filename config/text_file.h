#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace moed {

/// The bytes of a small text file (64 MiB at most). NOT_FOUND when there is no such file; other
/// errors name the path and what went wrong.
absl::StatusOr<std::string> ReadTextFile(const std::string& path);

}  // namespace moed
