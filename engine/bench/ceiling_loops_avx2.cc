#include <immintrin.h>

#include "engine/bench/ceiling_loops_inl.h"

namespace moed {
namespace {

struct FusedMultiplyAdd {
  using Acc = __m256;
  static constexpr int kRegisters = 12;
  static constexpr int64_t kOperations = 2 * 8;

  explicit FusedMultiplyAdd(float one) : half(Start(one / 2)), one(Start(one)) {}
  static Acc Start(float x) { return _mm256_set1_ps(x); }
  Acc Step(Acc acc) const { return _mm256_fmadd_ps(acc, half, one); }

  Acc half, one;
};

}  // namespace

const CeilingLoops kCeilingLoopsAvx2 = {
    .instruction_set = "avx2",
    .read = {Read<-1>, Read<3>, Read<2>, Read<0>},
    .f32 = RunOnRegisters<FusedMultiplyAdd>,
};

}  // namespace moed
