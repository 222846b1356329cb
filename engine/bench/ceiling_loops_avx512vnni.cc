#include <immintrin.h>

#include "engine/bench/ceiling_loops_inl.h"

namespace moed {
namespace {

/// Groups of four 8-bit integers, accumulated in 32 bits.
struct Int8Dot {
  using Acc = __m512i;
  static constexpr int kRegisters = 24;
  static constexpr int64_t kOperations = 2 * 64;

  explicit Int8Dot(float one) : ones(_mm512_set1_epi8(static_cast<char>(one))) {}
  static Acc Start(float x) { return _mm512_set1_epi32(static_cast<int>(x)); }
  // With the intrinsic GCC 12 copies every register in every round.
  Acc Step(Acc acc) const {
    asm("vpdpbusd %1, %1, %0" : "+v"(acc) : "v"(ones));
    return acc;
  }

  __m512i ones;
};

}  // namespace

const CeilingLoops kCeilingLoopsAvx512Vnni = {
    .instruction_set = "avx512_vnni",
    .int8 = RunOnRegisters<Int8Dot>,
};

}  // namespace moed
