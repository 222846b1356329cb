#include <immintrin.h>

#include "engine/bench/ceiling_loops_inl.h"

namespace moed {
namespace {

/// Pairs of bf16, accumulated in f32.
struct Bf16Dot {
  using Acc = __m512;
  static constexpr int kRegisters = 24;
  static constexpr int64_t kOperations = 2 * 32;

  explicit Bf16Dot(float one) : ones(_mm512_cvtne2ps_pbh(Start(one), Start(one))) {}
  static Acc Start(float x) { return _mm512_set1_ps(x); }
  Acc Step(Acc acc) const { return _mm512_dpbf16_ps(acc, ones, ones); }

  __m512bh ones;
};

}  // namespace

const CeilingLoops kCeilingLoopsAvx512Bf16 = {
    .instruction_set = "avx512_bf16",
    .bf16 = RunOnRegisters<Bf16Dot>,
};

}  // namespace moed
