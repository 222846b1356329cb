#include <immintrin.h>

#include "engine/bench/ceiling_loops_inl.h"

namespace moed {
namespace {

struct FusedMultiplyAdd {
  using Acc = __m512;
  static constexpr int kRegisters = 24;
  static constexpr int64_t kOperations = 2 * 16;

  explicit FusedMultiplyAdd(float one) : half(Start(one / 2)), one(Start(one)) {}
  static Acc Start(float x) { return _mm512_set1_ps(x); }
  Acc Step(Acc acc) const { return _mm512_fmadd_ps(acc, half, one); }

  Acc half, one;
};

}  // namespace

const CeilingLoops kCeilingLoopsAvx512 = {
    .instruction_set = "avx512",
    .read = {Read<-1>, Read<3>, Read<2>, Read<0>},
    .f32 = RunOnRegisters<FusedMultiplyAdd>,
};

}  // namespace moed
