#include <cmath>

#include "kernels/cpu/ops.h"

namespace moed::kernels::cpu {

void RmsNorm(CpuContext& context, const RmsNormParams& params) {
  const RowKernels& rows = *context.kernels().rows;
  const int64_t n = params.x.cols;
  context.ForEachRow(params.x.rows, n, [&](int64_t row, int) {
    const float* x = params.x.as<float>() + row * n;
    const float mean = rows.sum_of_squares(x, n) / static_cast<float>(n);
    const float scale = 1.0f / std::sqrt(mean + params.eps);
    if (params.out.dtype == DType::kBF16) {
      rows.scale_to_bf16(x, params.weight, scale, n, params.out.as<uint16_t>() + row * n);
    } else {
      rows.scale_to_f32(x, params.weight, scale, n, params.out.as<float>() + row * n);
    }
  });
}

}  // namespace moed::kernels::cpu
