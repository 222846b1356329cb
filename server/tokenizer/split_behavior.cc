#include "server/tokenizer/split_behavior.h"

#include <algorithm>

#include "absl/status/status.h"
#include "server/tokenizer/concat.h"

namespace moed {
namespace {

void AppendPart(TextSpan span, std::vector<TextSpan>& parts) {
  if (span.begin < span.end) parts.push_back(span);
}

void AppendContiguous(const std::vector<Stretch>& stretches, std::vector<TextSpan>& parts) {
  for (size_t i = 0; i < stretches.size();) {
    const size_t first = i;
    while (i < stretches.size() && stretches[i].is_match == stretches[first].is_match) ++i;
    AppendPart({stretches[first].span.begin, stretches[i - 1].span.end}, parts);
  }
}

/// A match is joined to what comes before it unless that is a match too.
void AppendMergedWithPrevious(const std::vector<Stretch>& stretches, std::vector<TextSpan>& parts) {
  for (size_t i = 0; i < stretches.size();) {
    TextSpan part = stretches[i].span;
    if (!stretches[i].is_match && i + 1 < stretches.size() && stretches[i + 1].is_match) {
      part.end = stretches[++i].span.end;
    }
    ++i;
    AppendPart(part, parts);
  }
}

/// A match is joined to what comes after it unless that is a match too.
void AppendMergedWithNext(const std::vector<Stretch>& stretches, std::vector<TextSpan>& parts) {
  for (size_t i = 0; i < stretches.size();) {
    TextSpan part = stretches[i].span;
    if (stretches[i].is_match && i + 1 < stretches.size() && !stretches[i + 1].is_match) {
      part.end = stretches[++i].span.end;
    }
    ++i;
    AppendPart(part, parts);
  }
}

}  // namespace

absl::StatusOr<SplitBehavior> ParseSplitBehavior(std::string_view name) {
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  return absl::InvalidArgumentError(
      Concat({"reading tokenizer.json: unknown split behavior \"", name, "\""}));
}

void AppendParts(const std::vector<Stretch>& stretches, SplitBehavior behavior,
                 std::vector<TextSpan>& parts) {
  switch (behavior) {
    case SplitBehavior::kRemoved:
      for (const Stretch& stretch : stretches) {
        if (!stretch.is_match) AppendPart(stretch.span, parts);
      }
      return;
    case SplitBehavior::kIsolated:
      for (const Stretch& stretch : stretches) AppendPart(stretch.span, parts);
      return;
    case SplitBehavior::kMergedWithPrevious:
      return AppendMergedWithPrevious(stretches, parts);
    case SplitBehavior::kMergedWithNext:
      return AppendMergedWithNext(stretches, parts);
    case SplitBehavior::kContiguous:
      return AppendContiguous(stretches, parts);
  }
}

}  // namespace moed
