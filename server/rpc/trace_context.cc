#include "server/rpc/trace_context.h"

#include <algorithm>

namespace moed {
namespace {

// "VV-TTTTTTTTTTTTTTTTTTTTTTTTTTTTTTTT-PPPPPPPPPPPPPPPP-FF"
constexpr size_t kVersionSize = 2;
constexpr size_t kTraceIdSize = 32;
constexpr size_t kParentIdSize = 16;
constexpr size_t kFlagsSize = 2;
constexpr size_t kTraceIdAt = kVersionSize + 1;
constexpr size_t kParentIdAt = kTraceIdAt + kTraceIdSize + 1;
constexpr size_t kFlagsAt = kParentIdAt + kParentIdSize + 1;
constexpr size_t kSize = kFlagsAt + kFlagsSize;

bool IsHexDigit(char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); }

bool IsHex(absl::string_view text) { return std::all_of(text.begin(), text.end(), IsHexDigit); }

// Hex digits, and not all of them zero.
bool IsId(absl::string_view text) {
  return IsHex(text) && text.find_first_not_of('0') != absl::string_view::npos;
}

}  // namespace

std::optional<TraceContext> ParseTraceparent(absl::string_view header) {
  if (header.size() < kSize) return std::nullopt;
  const absl::string_view version = header.substr(0, kVersionSize);
  if (!IsHex(version) || version == "ff") return std::nullopt;
  // Version 00 ends here; a later one may go on after a dash.
  if (header.size() > kSize && (version == "00" || header[kSize] != '-')) return std::nullopt;
  for (const size_t dash : {kTraceIdAt - 1, kParentIdAt - 1, kFlagsAt - 1}) {
    if (header[dash] != '-') return std::nullopt;
  }
  const absl::string_view trace_id = header.substr(kTraceIdAt, kTraceIdSize);
  const absl::string_view parent_id = header.substr(kParentIdAt, kParentIdSize);
  const absl::string_view flags = header.substr(kFlagsAt, kFlagsSize);
  if (!IsId(trace_id) || !IsId(parent_id) || !IsHex(flags)) return std::nullopt;
  const char low_digit = flags[1];
  const int low = low_digit <= '9' ? low_digit - '0' : low_digit - 'a' + 10;
  return TraceContext{.trace_id = std::string(trace_id),
                      .parent_id = std::string(parent_id),
                      .sampled = (low & 1) == 1};
}

}  // namespace moed
