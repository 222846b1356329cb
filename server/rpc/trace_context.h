#pragma once

#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace moed {

/// Where a call belongs in its caller's distributed trace: what W3C's header `traceparent` says.
struct TraceContext {
  std::string trace_id;   // 32 lower-case hex digits, not all zero
  std::string parent_id;  // 16 of them: the caller's span
  bool sampled = false;   // the caller records this trace

  bool operator==(const TraceContext&) const = default;
};

/// Nothing unless `header` is well formed by https://www.w3.org/TR/trace-context/, section 3.2: a
/// malformed one is to be ignored, and one of a later version is read as far as it is known.
std::optional<TraceContext> ParseTraceparent(absl::string_view header);

}  // namespace moed
