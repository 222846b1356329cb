#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace moed {

/// What becomes of the places that a pattern matches when a text is split there.
enum class SplitBehavior : uint8_t {
  kRemoved,             // they are dropped
  kIsolated,            // each is a part of its own
  kMergedWithPrevious,  // each is joined to the part before it
  kMergedWithNext,      // each is joined to the part after it
  kContiguous,          // neighbouring matches are joined to one part
};

/// A part of a text: bytes [begin, end).
struct TextSpan {
  uint32_t begin;
  uint32_t end;
};

/// A part of a text that matches, or that lies between matches.
struct Stretch {
  TextSpan span;
  bool is_match;
};

/// From its name in tokenizer.json, e.g. "MergedWithNext"; kInvalidArgument for an unknown one.
absl::StatusOr<SplitBehavior> ParseSplitBehavior(std::string_view name);

/// Appends to `parts` what `behavior` makes of `stretches`, which cover a text from left to right.
/// Empty parts are left out.
void AppendParts(const std::vector<Stretch>& stretches, SplitBehavior behavior,
                 std::vector<TextSpan>& parts);

}  // namespace moed
