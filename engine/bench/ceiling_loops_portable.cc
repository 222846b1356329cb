#include "engine/bench/ceiling_loops_inl.h"

namespace moed {
namespace {

/// One 128-bit vector, as every 64-bit platform has; no fused multiply-add.
struct MultiplyAdd {
  typedef float Acc __attribute__((vector_size(16)));
  static constexpr int kRegisters = 12;
  static constexpr int64_t kOperations = 2 * 4;

  explicit MultiplyAdd(float one) : half(Start(one / 2)), one(Start(one)) {}
  static Acc Start(float x) { return Acc{x, x, x, x}; }
  Acc Step(Acc acc) const { return acc * half + one; }

  Acc half, one;
};

}  // namespace

const CeilingLoops kCeilingLoopsPortable = {
    .instruction_set = "portable",
    .read = {Read<-1>, Read<3>, Read<2>, Read<0>},
    .f32 = RunOnRegisters<MultiplyAdd>,
};

}  // namespace moed
