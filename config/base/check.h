#pragma once

#include <string_view>

namespace moed {

/// Prints "file:line: check failed: condition" to stderr and aborts.
[[noreturn]] void CheckFailed(std::string_view condition, const char* file, int line);

}  // namespace moed

/// For invariants of this program only. Anything a client, a file or a peer can trigger must be an
/// absl::Status instead. Checked in release builds too.
#define MOED_CHECK(condition)                              \
  do {                                                     \
    if (!(condition)) [[unlikely]] {                       \
      ::moed::CheckFailed(#condition, __FILE__, __LINE__); \
    }                                                      \
  } while (false)
