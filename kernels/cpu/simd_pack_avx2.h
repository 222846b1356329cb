#pragma once

#include <immintrin.h>

#include <cstdint>

/// As simd_pack_portable.h, for AVX2. Include simd_avx2.h before.
namespace moed::kernels::cpu {
namespace {

using IntVec = __m256i;

inline IntVec SetInt(uint32_t x) { return _mm256_set1_epi32(static_cast<int>(x)); }
inline void StoreInts(char* p, IntVec v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
inline void StreamInts(char* p, IntVec v) { StoreInts(p, v); }  // half a line gains nothing
inline void FinishStreams() {}
inline Vec AsFloats(IntVec v) { return _mm256_castsi256_ps(v); }
inline IntVec Magnitude(Vec v) {
  return _mm256_and_si256(_mm256_castps_si256(v), SetInt(~0u >> 1));
}
inline IntVec MaxInts(IntVec a, IntVec b) { return _mm256_max_epi32(a, b); }
inline Vec SelectGreater(IntVec a, IntVec b, Vec yes, Vec no) {
  return _mm256_blendv_ps(no, yes, _mm256_castsi256_ps(_mm256_cmpgt_epi32(a, b)));
}
inline IntVec RoundToInts(Vec v) { return _mm256_cvtps_epi32(v); }
inline IntVec Xor(IntVec a, IntVec b) { return _mm256_xor_si256(a, b); }
template <int kShift>
inline IntVec ShiftLeft(IntVec v) {
  return _mm256_slli_epi32(v, kShift);
}
inline IntVec SelectBits(uint32_t mask, IntVec yes, IntVec no) {
  return _mm256_or_si256(_mm256_and_si256(SetInt(mask), yes),
                         _mm256_andnot_si256(SetInt(mask), no));
}

/// 8 rows of 8 words: words a, b of the rows 2 i and 2 i + 1 meet, then fours, then all.
inline void Transpose8Words(const char* const* rows, int64_t offset, IntVec* out) {
  IntVec r[8], t[8];
  for (int i = 0; i < 8; i += 2) {
    const IntVec a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows[i] + offset));
    const IntVec b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows[i + 1] + offset));
    r[i] = _mm256_unpacklo_epi32(a, b);
    r[i + 1] = _mm256_unpackhi_epi32(a, b);
  }
  for (int i = 0; i < 8; i += 4) {  // t[i + j]: words j, 4 + j of the rows i..i + 3
    t[i] = _mm256_unpacklo_epi64(r[i], r[i + 2]);
    t[i + 1] = _mm256_unpackhi_epi64(r[i], r[i + 2]);
    t[i + 2] = _mm256_unpacklo_epi64(r[i + 1], r[i + 3]);
    t[i + 3] = _mm256_unpackhi_epi64(r[i + 1], r[i + 3]);
  }
  for (int j = 0; j < 4; ++j) {
    out[j] = _mm256_permute2x128_si256(t[j], t[4 + j], 0x20);
    out[4 + j] = _mm256_permute2x128_si256(t[j], t[4 + j], 0x31);
  }
}
inline void TransposeWords(const char* const* rows, int64_t offset, IntVec* out) {
  Transpose8Words(rows, offset, out);
  Transpose8Words(rows, offset + 32, out + 8);
}

}  // namespace
}  // namespace moed::kernels::cpu
