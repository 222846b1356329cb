#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "engine/comm/communicator.h"
#include "engine/comm/shm_segment.h"

namespace moed {

/// What a message says of the call it belongs to, in the 64 bits of UCX's tag: the sender in the
/// highest 8, which alone decide who takes it; then, as far as they fit, kind, call, layer, phase
/// and step, so that a rank out of step shows as such instead of as wrong rows.
namespace ucx_tag {

inline constexpr int kRankShift = 56;
inline constexpr uint64_t kRankMask = uint64_t{0xff} << kRankShift;

inline uint64_t PhaseBits(std::string_view phase) {
  uint64_t bits = 0;
  for (const char c : phase) bits = bits * 31 + static_cast<unsigned char>(c);
  return bits & 0xff;
}

inline uint64_t Make(int32_t sender, CollectiveKind kind, uint64_t call, const CollectiveTag& tag) {
  return static_cast<uint64_t>(sender) << kRankShift | (static_cast<uint64_t>(kind) & 0x7) << 53 |
         (call & 0x1fff) << 40 | (static_cast<uint64_t>(tag.layer) & 0xfff) << 28 |
         PhaseBits(tag.phase) << 20 | (tag.step_id & 0xfffff);
}

/// "step 12, layer 3, phase #77, kind 2, call 9": the low bits of each.
inline std::string Describe(uint64_t tag) {
  return absl::StrCat("step ", tag & 0xfffff, ", layer ", tag >> 28 & 0xfff, ", phase #",
                      tag >> 20 & 0xff, ", kind ", tag >> 53 & 0x7, ", call ", tag >> 40 & 0x1fff);
}

}  // namespace ucx_tag

}  // namespace moed
