#pragma once

#include <immintrin.h>

#include <cstdint>

/// As simd_int_avx512.h, for AVX2: 8 sums.
namespace moed::kernels::cpu {
namespace {

using IntVec = __m256i;
constexpr int kIntBlockRows = 2;

inline IntVec LoadInts(const char* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
inline IntVec SetInt(int32_t x) { return _mm256_set1_epi32(x); }
inline IntVec LowNibbles(IntVec v) { return _mm256_and_si256(v, _mm256_set1_epi8(15)); }
inline IntVec HighNibbles(IntVec v) { return LowNibbles(_mm256_srli_epi16(v, 4)); }
inline __m256 IntsToFloats(IntVec v) { return _mm256_cvtepi32_ps(v); }

constexpr bool kInt8SumsHaveOffset = false;
struct Int8Weights {
  __m256i magnitude;
  __m256i q;
};
inline Int8Weights PrepareInt8(IntVec stored) {
  const __m256i q = _mm256_xor_si256(stored, _mm256_set1_epi8(-128));
  return {_mm256_abs_epi8(q), q};
}
inline IntVec DotUnsigned(IntVec sum, IntVec w, IntVec x) {
  const __m256i pairs = _mm256_maddubs_epi16(w, x);
  return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
inline IntVec DotInt8(IntVec sum, const Int8Weights& w, IntVec x) {
  return DotUnsigned(sum, w.magnitude, _mm256_sign_epi8(x, w.q));
}

/// The largest of 32 values without their signs, as bits.
inline uint16_t LargestMagnitude(const uint16_t* x) {
  const __m256i* p = reinterpret_cast<const __m256i*>(x);
  const __m256i mask = _mm256_set1_epi16(0x7fff);
  const __m256i half = _mm256_max_epu16(_mm256_and_si256(_mm256_loadu_si256(p), mask),
                                        _mm256_and_si256(_mm256_loadu_si256(p + 1), mask));
  const __m128i all =
      _mm_max_epu16(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
  const __m128i least = _mm_minpos_epu16(_mm_xor_si128(all, _mm_set1_epi16(-1)));
  return static_cast<uint16_t>(~_mm_extract_epi16(least, 0));
}

/// out = x * scale rounded to nearest, 32 values of magnitude up to 127; returns their sum.
inline int32_t ScaleToInt8(const uint16_t* x, float scale, int8_t* out) {
  __m256i sum = _mm256_setzero_si256();
  for (int i = 0; i < 32; i += 8) {
    const __m256i q = _mm256_cvtps_epi32(_mm256_mul_ps(Load(x + i), _mm256_set1_ps(scale)));
    const __m128i words =
        _mm_packs_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(out + i), _mm_packs_epi16(words, words));
    sum = _mm256_add_epi32(sum, q);
  }
  const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
  const __m128i two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
  return _mm_cvtsi128_si32(two) + _mm_extract_epi32(two, 1);
}

}  // namespace
}  // namespace moed::kernels::cpu
