#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <utility>

#include "absl/strings/string_view.h"

namespace moed {

/// Cuts a byte stream into lines, whatever the pieces it comes in. A line longer than the bound is
/// cut and its rest dropped; control characters become '?'. Used by one thread.
class LineSplitter {
 public:
  static constexpr size_t kMaxLineBytes = 4096;

  explicit LineSplitter(std::function<void(absl::string_view line)> on_line)
      : on_line_(std::move(on_line)) {}

  void Append(absl::string_view bytes);
  void Flush();  // the stream has ended: what is left is a line as well

 private:
  void Push(char byte);

  const std::function<void(absl::string_view)> on_line_;
  std::string line_;
};

}  // namespace moed
