#pragma once

#include <cstdint>
#include <cstring>

/// As simd_int_avx512.h, in the compiler's own vector type: 4 sums. Include simd_portable.h before.
namespace moed::kernels::cpu {
namespace {

constexpr int kIntBlockRows = 2;

inline IntVec LoadInts(const char* p) {
  IntVec v;
  memcpy(&v, p, sizeof(v));
  return v;
}
inline IntVec SetInt(int32_t x) { return IntVec{x, x, x, x}; }
inline IntVec LowNibbles(IntVec v) { return v & 0x0f0f0f0f; }
inline IntVec HighNibbles(IntVec v) { return LowNibbles(v >> 4); }
inline Vec IntsToFloats(IntVec v) { return __builtin_convertvector(v, Vec); }

constexpr bool kInt8SumsHaveOffset = true;
using Int8Weights = IntVec;
inline Int8Weights PrepareInt8(IntVec stored) { return stored; }
inline IntVec DotUnsigned(IntVec sum, IntVec w, IntVec x) {
  for (int i = 0; i < 4; ++i) {
    const IntVec byte = (w >> (8 * i)) & 0xff;
    sum += byte * ((x << (24 - 8 * i)) >> 24);
  }
  return sum;
}
inline IntVec DotInt8(IntVec sum, const Int8Weights& w, IntVec x) { return DotUnsigned(sum, w, x); }

/// The largest of 32 values without their signs, as bits.
inline uint16_t LargestMagnitude(const uint16_t* x) {
  uint16_t largest = 0;
  for (int i = 0; i < 32; ++i) {
    const uint16_t magnitude = x[i] & 0x7fff;
    largest = magnitude > largest ? magnitude : largest;
  }
  return largest;
}

/// out = x * scale rounded to nearest, 32 values of magnitude up to 127; returns their sum.
inline int32_t ScaleToInt8(const uint16_t* x, float scale, int8_t* out) {
  IntVec sum = {};
  for (int i = 0; i < 32; i += kLanes) {
    const IntVec q = __builtin_convertvector(Round(Mul(Load(x + i), Set(scale))), IntVec);
    for (int lane = 0; lane < kLanes; ++lane) out[i + lane] = static_cast<int8_t>(q[lane]);
    sum += q;
  }
  return (sum[0] + sum[2]) + (sum[1] + sum[3]);
}

}  // namespace
}  // namespace moed::kernels::cpu
