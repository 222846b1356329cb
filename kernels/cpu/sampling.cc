#include <vector>

#include "kernels/cpu/ops.h"
#include "kernels/sampling_math.h"

namespace moed::kernels::cpu {

void Sample(CpuContext& context, const SampleParams& p) {
  const RowKernels& rows = *context.kernels().rows;
  const SamplingLoops loops = {.max_value = rows.max_value, .exp_and_sum = rows.exp_and_sum};
  std::vector<SamplingScratch> scratch(context.pool().num_threads());
  context.pool().ParallelFor(p.logits.rows, [&](int64_t row, int thread) {
    const std::span<float> logits(p.logits.as<float>() + row * p.logits.cols, p.num_valid_tokens);
    p.out[row] = ChooseToken(p.rows[row], logits, loops, scratch[thread]);
  });
}

}  // namespace moed::kernels::cpu
