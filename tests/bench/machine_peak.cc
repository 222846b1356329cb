#include "tests/bench/machine_peak.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace moed::bench {

#if defined(__x86_64__)

namespace {

__attribute__((target("avx512f,avx512bf16"))) void DotProducts(int64_t rounds) {
  __m512 acc[24] = {};
  __m512bh a = reinterpret_cast<__m512bh>(_mm512_set1_epi32(0x3f803f80));
  __m512bh b = a;
#pragma GCC unroll 24
  for (int j = 0; j < 24; ++j) asm volatile("" : "+v"(acc[j]));  // not known to be equal
  for (int64_t i = 0; i < rounds; ++i) {
    asm volatile("" : "+v"(a), "+v"(b));
#pragma GCC unroll 24
    for (int j = 0; j < 24; ++j) acc[j] = _mm512_dpbf16_ps(acc[j], a, b);
  }
#pragma GCC unroll 24
  for (int j = 0; j < 24; ++j) asm volatile("" : "+v"(acc[j]));
}

__attribute__((target("avx512f"))) int64_t ReadWithAvx512(const char* data, size_t bytes) {
  __m512i sum[4] = {};
  for (size_t i = 0; i + 256 <= bytes; i += 256) {
    for (int j = 0; j < 4; ++j) {
      _mm_prefetch(data + i + 4096 + 64 * j, _MM_HINT_T0);
      sum[j] = _mm512_add_epi64(sum[j], _mm512_loadu_si512(data + i + 64 * j));
    }
  }
  const __m512i all =
      _mm512_add_epi64(_mm512_add_epi64(sum[0], sum[1]), _mm512_add_epi64(sum[2], sum[3]));
  alignas(64) int64_t lanes[8];
  _mm512_store_si512(lanes, all);
  int64_t total = 0;
  for (int64_t lane : lanes) total += lane;
  return total;
}

}  // namespace

int64_t RunBf16DotProducts(int64_t rounds) {
  if (!__builtin_cpu_supports("avx512bf16")) return 0;
  DotProducts(rounds);
  return rounds * 24 * 64;
}

#else

int64_t RunBf16DotProducts(int64_t) { return 0; }

#endif

int64_t ReadAll(const char* data, size_t bytes) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return ReadWithAvx512(data, bytes);
#endif
  int64_t sum = 0;
  for (size_t i = 0; i + 8 <= bytes; i += 8) sum += *reinterpret_cast<const int64_t*>(data + i);
  return sum;
}

}  // namespace moed::bench
