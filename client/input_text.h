#pragma once

#include <istream>
#include <string>

#include "absl/status/statusor.h"
#include "client/command_line.h"

namespace moed {

inline constexpr size_t kMaxInputBytes = 64 << 20;

/// The text that the flags point at. INVALID_ARGUMENT when it is too long or no UTF-8 (naming the
/// first bad byte), NOT_FOUND when the file cannot be read.
absl::StatusOr<std::string> ReadInputText(const TextFlags& flags, std::istream& standard_input);

/// The bearer token in a file, without surrounding blanks. INVALID_ARGUMENT unless it is one word
/// of visible ASCII.
absl::StatusOr<std::string> ReadToken(const std::string& path);

}  // namespace moed
