#pragma once

#include <cstdint>
#include <cstring>

/// What packing weights needs beyond simd_portable.h, which is included before. Internal linkage
/// throughout.
namespace moed::kernels::cpu {
namespace {

inline IntVec SetInt(uint32_t x) {
  const int32_t i = static_cast<int32_t>(x);
  return IntVec{i, i, i, i};
}
inline void StoreInts(char* p, IntVec v) { memcpy(p, &v, sizeof(v)); }
/// To memory that is not needed soon; p is aligned to the vector. Before other threads may look,
/// FinishStreams().
inline void StreamInts(char* p, IntVec v) { StoreInts(p, v); }
inline void FinishStreams() {}
inline Vec AsFloats(IntVec v) { return reinterpret_cast<Vec>(v); }
/// The bits of |v|, which are ordered as the magnitudes are; NaN is above infinity.
inline IntVec Magnitude(Vec v) { return reinterpret_cast<IntVec>(v) & 0x7fffffff; }
inline IntVec MaxInts(IntVec a, IntVec b) {
  const IntVec greater = a > b;
  return (a & greater) | (b & ~greater);
}
/// yes where a > b, else no.
inline Vec SelectGreater(IntVec a, IntVec b, Vec yes, Vec no) { return Select(a > b, yes, no); }
/// To the nearest integer, ties to even; of a NaN the lower 8 bits are 0.
inline IntVec RoundToInts(Vec v) {
  return __builtin_convertvector(Round(Select(v == v, v, Zero())), IntVec);
}
inline IntVec Xor(IntVec a, IntVec b) { return a ^ b; }
template <int kShift>
inline IntVec ShiftLeft(IntVec v) {
  return reinterpret_cast<IntVec>(reinterpret_cast<UintVec>(v) << kShift);
}
/// The bits of yes where mask has ones, else those of no.
inline IntVec SelectBits(uint32_t mask, IntVec yes, IntVec no) {
  return (yes & SetInt(mask)) | (no & ~SetInt(mask));
}

/// out[i][r] = word i of 16 at rows[r] + offset, for kLanes rows.
inline void TransposeWords(const char* const* rows, int64_t offset, IntVec* out) {
  int32_t words[kLanes][16];
  for (int r = 0; r < kLanes; ++r) memcpy(words[r], rows[r] + offset, sizeof(words[r]));
  for (int i = 0; i < 16; ++i) out[i] = IntVec{words[0][i], words[1][i], words[2][i], words[3][i]};
}

}  // namespace
}  // namespace moed::kernels::cpu
