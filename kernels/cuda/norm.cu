#include "kernels/cuda/device.cuh"
#include "kernels/cuda/ops.h"

namespace moed::kernels::cuda {
namespace {

constexpr int kThreads = 256;

/// One block per row: out = x * rsqrt(mean(x^2) + eps) * weight.
__global__ void __launch_bounds__(kThreads)
    RmsNormKernel(const float* x, const float* weight, float eps, int64_t cols, Bf16* out) {
  __shared__ float scratch[kWarpSize];
  const float* row = x + blockIdx.x * cols;
  Bf16* out_row = out + blockIdx.x * cols;
  float square = 0;
  for (int64_t i = threadIdx.x; i < cols; i += kThreads) square = fmaf(row[i], row[i], square);
  const float mean = BlockSum(square, scratch) / static_cast<float>(cols);
  const float scale = 1.0f / sqrtf(mean + eps);
  for (int64_t i = threadIdx.x; i < cols; i += kThreads) {
    out_row[i] = ToBf16(row[i] * scale * weight[i]);
  }
}

}  // namespace

cudaError_t RmsNorm(const Device& device, const RmsNormParams& params) {
  return Launch(RmsNormKernel,
                {.grid = {static_cast<unsigned>(params.x.rows)}, .block = {kThreads}},
                device.stream, params.x.as<float>(), params.weight, params.eps, params.x.cols,
                params.out.as<Bf16>());
}

}  // namespace moed::kernels::cuda
