#pragma once

#include <cstdint>
#include <cstring>

/// Vectors of 4 floats in the compiler's own vector type: SSE2, NEON, or plain scalar code.
/// Internal linkage throughout, see kernel_table.h.
namespace moed::kernels::cpu {
namespace {

using Vec = float __attribute__((vector_size(16)));
using IntVec = int32_t __attribute__((vector_size(16)));
using UintVec = uint32_t __attribute__((vector_size(16)));
constexpr int kLanes = 4;
// The register block of a GEMM: rows, and vectors per row.
constexpr int kBlockRows = 4;
constexpr int kBlockVecs = 2;

inline Vec Set(float x) { return Vec{x, x, x, x}; }
inline Vec Zero() { return Vec{}; }
inline Vec Load(const float* p) {
  Vec v;
  memcpy(&v, p, sizeof(v));
  return v;
}
inline Vec Load(const uint16_t* p) {
  const UintVec bits = {p[0], p[1], p[2], p[3]};
  return reinterpret_cast<Vec>(bits << 16);
}
inline UintVec LoadPairs(const uint16_t* p) {
  UintVec v;
  memcpy(&v, p, sizeof(v));
  return v;
}
// Of kLanes pairs of bf16, the first or the second elements. Pairs are stored in memory order.
inline Vec LoadEven(const uint16_t* p) { return reinterpret_cast<Vec>(LoadPairs(p) << 16); }
inline Vec LoadOdd(const uint16_t* p) { return reinterpret_cast<Vec>(LoadPairs(p) & 0xffff0000u); }
inline void Store(float* p, Vec v) { memcpy(p, &v, sizeof(v)); }
inline void Store(uint16_t* p, Vec v) {
  const UintVec bits = reinterpret_cast<UintVec>(v);
  const UintVec rounded = (bits + (((bits >> 16) & 1u) + 0x7fffu)) >> 16;
  const UintVec is_nan = reinterpret_cast<UintVec>(v != v);
  const UintVec out = (rounded & ~is_nan) | (((bits >> 16) | 0x40u) & is_nan);
  for (int i = 0; i < kLanes; ++i) p[i] = static_cast<uint16_t>(out[i]);
}
inline Vec Add(Vec a, Vec b) { return a + b; }
inline Vec Sub(Vec a, Vec b) { return a - b; }
inline Vec Mul(Vec a, Vec b) { return a * b; }
inline Vec Div(Vec a, Vec b) { return a / b; }
inline Vec Fma(Vec a, Vec b, Vec c) { return a * b + c; }
inline Vec Select(IntVec mask, Vec yes, Vec no) {
  return reinterpret_cast<Vec>((reinterpret_cast<IntVec>(yes) & mask) |
                               (reinterpret_cast<IntVec>(no) & ~mask));
}
// b where either is NaN.
inline Vec Max(Vec a, Vec b) { return Select(a > b, a, b); }
inline Vec Min(Vec a, Vec b) { return Select(a < b, a, b); }
// value where x >= limit or x is NaN, else 0.
inline Vec ZeroIfLess(Vec x, Vec limit, Vec value) { return Select(x < limit, Zero(), value); }
inline float Sum(Vec v) { return (v[0] + v[2]) + (v[1] + v[3]); }
inline float MaxLane(Vec v) {
  float m = v[0];
  for (int i = 1; i < kLanes; ++i) m = v[i] > m ? v[i] : m;
  return m;
}
constexpr float kRoundMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
inline Vec Round(Vec x) { return (x + kRoundMagic) - kRoundMagic; }
// x * 2^n for integral n in [-126, 127].
inline Vec ScaleByPowerOfTwo(Vec x, Vec n) {
  const UintVec integer = reinterpret_cast<UintVec>(n + kRoundMagic);
  return x * reinterpret_cast<Vec>((integer + 127u) << 23);
}
/// v[i] lane j <-> v[j] lane i.
inline void Transpose(Vec* v) {
  const Vec a = v[0], b = v[1], c = v[2], d = v[3];
  for (int i = 0; i < kLanes; ++i) v[i] = Vec{a[i], b[i], c[i], d[i]};
}

}  // namespace
}  // namespace moed::kernels::cpu
