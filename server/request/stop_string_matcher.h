#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moed {

/// Finds the first stop string in a text that arrives piece by piece, and lets no part of it
/// through.
///
/// The first match is the one that is complete first; of those, the longest. So the result depends
/// on the text only, not on how it is cut into pieces. Owned by a SequenceOutput.
class StopStringMatcher {
 public:
  struct Result {
    std::string text;                    // safe to show
    std::optional<std::string> matched;  // the stop string, when one was found: the text ends here
  };

  /// `stop_strings` are not empty. With `include`, the matched one stays in the text.
  StopStringMatcher(std::vector<std::string> stop_strings, bool include)
      : stop_strings_(std::move(stop_strings)), include_(include) {}

  /// Adds `text`. Holds back the longest end that could become a stop string. Nothing may be added
  /// after a match.
  Result Append(std::string_view text);

  /// Ends the text: returns what was held back.
  std::string Flush() { return std::exchange(held_, {}); }

 private:
  size_t HeldSize() const;

  std::vector<std::string> stop_strings_;
  bool include_;
  std::string held_;
};

}  // namespace moed
