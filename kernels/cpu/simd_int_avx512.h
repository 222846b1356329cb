#pragma once

#include <immintrin.h>

#include <cstdint>

/// Products of 8-bit integers for AVX-512 (F, BW): 16 sums of four products each. Internal linkage
/// throughout. With MOED_AVX512_VNNI in their own instruction.
namespace moed::kernels::cpu {
namespace {

using IntVec = __m512i;
// The register block of a product: 6 rows of 2 vectors, integer and float sums of each.
constexpr int kIntBlockRows = 6;

inline IntVec LoadInts(const char* p) { return _mm512_loadu_si512(p); }
inline IntVec SetInt(int32_t x) { return _mm512_set1_epi32(x); }
inline IntVec LowNibbles(IntVec v) { return _mm512_and_si512(v, _mm512_set1_epi8(15)); }
inline IntVec HighNibbles(IntVec v) { return LowNibbles(_mm512_srli_epi16(v, 4)); }
inline __m512 IntsToFloats(IntVec v) { return _mm512_cvtepi32_ps(v); }

#ifdef MOED_AVX512_VNNI

// The weights of an int8 product are bytes q + 128, used as they are: sums are too large by 128
// times the sum of x.
constexpr bool kInt8SumsHaveOffset = true;
using Int8Weights = __m512i;
inline Int8Weights PrepareInt8(IntVec stored) { return stored; }
/// sum += w . x, four by four; w unsigned, x signed.
inline IntVec DotUnsigned(IntVec sum, IntVec w, IntVec x) { return _mm512_dpbusd_epi32(sum, w, x); }
inline IntVec DotInt8(IntVec sum, const Int8Weights& w, IntVec x) { return DotUnsigned(sum, w, x); }

#else

// Two products of bytes up to 255 do not fit the 16 bits of vpmaddubsw, |q| <= 127 does: the sign
// goes over to x.
constexpr bool kInt8SumsHaveOffset = false;
struct Int8Weights {
  __m512i magnitude;
  __mmask64 negative;
};
inline Int8Weights PrepareInt8(IntVec stored) {
  const __m512i q = _mm512_xor_si512(stored, _mm512_set1_epi8(-128));
  return {_mm512_abs_epi8(q), _mm512_movepi8_mask(q)};
}
inline IntVec DotUnsigned(IntVec sum, IntVec w, IntVec x) {
  const __m512i pairs = _mm512_maddubs_epi16(w, x);
  return _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}
inline IntVec DotInt8(IntVec sum, const Int8Weights& w, IntVec x) {
  const __m512i signed_x = _mm512_mask_sub_epi8(x, w.negative, _mm512_setzero_si512(), x);
  return DotUnsigned(sum, w.magnitude, signed_x);
}

#endif

/// The largest of 32 values without their signs, as bits.
inline uint16_t LargestMagnitude(const uint16_t* x) {
  const __m512i v = _mm512_and_si512(_mm512_loadu_si512(x), _mm512_set1_epi16(0x7fff));
  const __m256i half = _mm256_max_epu16(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1));
  const __m128i all =
      _mm_max_epu16(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
  const __m128i least = _mm_minpos_epu16(_mm_xor_si128(all, _mm_set1_epi16(-1)));
  return static_cast<uint16_t>(~_mm_extract_epi16(least, 0));
}

/// out = x * scale rounded to nearest, 32 values of magnitude up to 127; returns their sum.
inline int32_t ScaleToInt8(const uint16_t* x, float scale, int8_t* out) {
  __m512i sum = _mm512_setzero_si512();
  for (int i = 0; i < 32; i += 16) {
    const __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(Load(x + i), _mm512_set1_ps(scale)));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), _mm512_cvtepi32_epi8(q));
    sum = _mm512_add_epi32(sum, q);
  }
  return _mm512_reduce_add_epi32(sum);
}

}  // namespace
}  // namespace moed::kernels::cpu
