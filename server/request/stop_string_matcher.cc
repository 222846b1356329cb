#include "server/request/stop_string_matcher.h"

#include <algorithm>
#include <utility>

namespace moed {

StopStringMatcher::Result StopStringMatcher::Append(std::string_view text) {
  held_ += text;
  const std::string* match = nullptr;
  size_t match_end = 0;
  for (const std::string& stop : stop_strings_) {
    const size_t begin = held_.find(stop);
    if (begin == std::string::npos) continue;
    const size_t end = begin + stop.size();
    if (!match || end < match_end || (end == match_end && stop.size() > match->size())) {
      match = &stop;
      match_end = end;
    }
  }
  if (match) {
    held_.resize(include_ ? match_end : match_end - match->size());
    return {Flush(), *match};
  }
  const size_t num_safe = held_.size() - HeldSize();
  Result result{.text = held_.substr(0, num_safe)};
  held_.erase(0, num_safe);
  return result;
}

// Size of the longest suffix of held_ that is a proper prefix of a stop string.
size_t StopStringMatcher::HeldSize() const {
  size_t longest = 0;
  for (const std::string& stop : stop_strings_) {
    for (size_t size = std::min(held_.size(), stop.size() - 1); size > longest; --size) {
      if (std::string_view(held_).ends_with(std::string_view(stop).substr(0, size))) longest = size;
    }
  }
  return longest;
}

}  // namespace moed
