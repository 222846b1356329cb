#pragma once

#include <cstdint>

/// Functions over the vectors of whichever simd_*.h was included before. Internal linkage
/// throughout.
namespace moed::kernels::cpu {
namespace {

// The first min(n, kLanes) elements, then zeros.
template <typename T>
inline Vec LoadFirst(const T* p, int64_t n) {
  if (n >= kLanes) return Load(p);
  T all[kLanes] = {};
  for (int64_t i = 0; i < n; ++i) all[i] = p[i];
  return Load(all);
}
template <typename T>
inline void StoreFirst(T* p, Vec v, int64_t n) {
  if (n >= kLanes) return Store(p, v);
  T all[kLanes];
  Store(all, v);
  for (int64_t i = 0; i < n; ++i) p[i] = all[i];
}

/// e^x within 2 ulp for x in [-87, 88]; 0 below, e^88 above, NaN for NaN. Cephes' expf (Moshier).
inline Vec Exp(Vec x) {
  const Vec clamped = Min(Set(88.0f), Max(Set(-87.0f), x));
  const Vec n = Round(Mul(clamped, Set(1.44269504088896341f)));
  Vec r = Fma(n, Set(-0.693359375f), clamped);
  r = Fma(n, Set(2.12194440e-4f), r);
  Vec p = Set(1.9875691500e-4f);
  p = Fma(p, r, Set(1.3981999507e-3f));
  p = Fma(p, r, Set(8.3334519073e-3f));
  p = Fma(p, r, Set(4.1665795894e-2f));
  p = Fma(p, r, Set(1.6666665459e-1f));
  p = Fma(p, r, Set(5.0000001201e-1f));
  p = Add(Fma(p, Mul(r, r), r), Set(1.0f));
  return ZeroIfLess(x, Set(-87.0f), ScaleByPowerOfTwo(p, n));
}

/// x / (1 + e^-x)
inline Vec Silu(Vec x) { return Div(x, Add(Set(1.0f), Exp(Sub(Zero(), x)))); }

inline float ToFloat(float x) { return x; }
inline float ToFloat(uint16_t bf16) {
  const uint32_t bits = static_cast<uint32_t>(bf16) << 16;
  float x;
  memcpy(&x, &bits, sizeof(x));
  return x;
}

}  // namespace
}  // namespace moed::kernels::cpu
