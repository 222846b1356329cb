#pragma once

#include <immintrin.h>

#include <cstdint>

/// What packing weights needs beyond simd_avx512.h, which is included before. Same functions as
/// simd_pack_portable.h, internal linkage throughout.
namespace moed::kernels::cpu {
namespace {

using IntVec = __m512i;
// A row is read so far ahead: more rows are read at once than the hardware keeps track of.
constexpr int64_t kPrefetchBytes = 128;

inline IntVec SetInt(uint32_t x) { return _mm512_set1_epi32(static_cast<int>(x)); }
inline void StoreInts(char* p, IntVec v) { _mm512_storeu_si512(p, v); }
/// Past the caches, where a whole line of 64 bytes needs no read before.
inline void StreamInts(char* p, IntVec v) { _mm512_stream_si512(reinterpret_cast<__m512i*>(p), v); }
/// Makes what was streamed visible to other threads in the order that they expect.
inline void FinishStreams() { _mm_sfence(); }
inline Vec AsFloats(IntVec v) { return _mm512_castsi512_ps(v); }
inline IntVec Magnitude(Vec v) {
  return _mm512_and_si512(_mm512_castps_si512(v), SetInt(~0u >> 1));
}
inline IntVec MaxInts(IntVec a, IntVec b) { return _mm512_max_epi32(a, b); }
inline Vec SelectGreater(IntVec a, IntVec b, Vec yes, Vec no) {
  return _mm512_mask_blend_ps(_mm512_cmpgt_epi32_mask(a, b), no, yes);
}
inline IntVec RoundToInts(Vec v) { return _mm512_cvtps_epi32(v); }
inline IntVec Xor(IntVec a, IntVec b) { return _mm512_xor_si512(a, b); }
template <int kShift>
inline IntVec ShiftLeft(IntVec v) {
  return _mm512_slli_epi32(v, kShift);
}
inline IntVec SelectBits(uint32_t mask, IntVec yes, IntVec no) {
  return _mm512_ternarylogic_epi32(SetInt(mask), yes, no, 0xca);
}

/// 16 rows of 16 words: words a, b of the rows 2 i and 2 i + 1 meet, then fours, then all.
inline void TransposeWords(const char* const* rows, int64_t offset, IntVec* out) {
  IntVec r[16], t[16];
  for (int i = 0; i < 16; ++i) _mm_prefetch(rows[i] + offset + kPrefetchBytes, _MM_HINT_T0);
  for (int i = 0; i < 16; i += 2) {
    const IntVec a = _mm512_loadu_si512(rows[i] + offset);
    const IntVec b = _mm512_loadu_si512(rows[i + 1] + offset);
    r[i] = _mm512_unpacklo_epi32(a, b);
    r[i + 1] = _mm512_unpackhi_epi32(a, b);
  }
  for (int i = 0; i < 16; i += 4) {  // t[i + j]: words j, 4 + j, 8 + j, 12 + j of the rows i..i + 3
    t[i] = _mm512_unpacklo_epi64(r[i], r[i + 2]);
    t[i + 1] = _mm512_unpackhi_epi64(r[i], r[i + 2]);
    t[i + 2] = _mm512_unpacklo_epi64(r[i + 1], r[i + 3]);
    t[i + 3] = _mm512_unpackhi_epi64(r[i + 1], r[i + 3]);
  }
  for (int j = 0; j < 4; ++j) {
    const IntVec even_low = _mm512_shuffle_i32x4(t[j], t[4 + j], 0x88);
    const IntVec even_high = _mm512_shuffle_i32x4(t[8 + j], t[12 + j], 0x88);
    const IntVec odd_low = _mm512_shuffle_i32x4(t[j], t[4 + j], 0xdd);
    const IntVec odd_high = _mm512_shuffle_i32x4(t[8 + j], t[12 + j], 0xdd);
    out[j] = _mm512_shuffle_i32x4(even_low, even_high, 0x88);
    out[4 + j] = _mm512_shuffle_i32x4(odd_low, odd_high, 0x88);
    out[8 + j] = _mm512_shuffle_i32x4(even_low, even_high, 0xdd);
    out[12 + j] = _mm512_shuffle_i32x4(odd_low, odd_high, 0xdd);
  }
}

}  // namespace
}  // namespace moed::kernels::cpu
