#include "kernels/cuda/device.cuh"
#include "kernels/cuda/fast_gemm.h"

namespace moed::kernels::cuda {
namespace {

constexpr int kThreads = 256;

/// One block per row.
__global__ void SwiGluKernel(const float* rows, int64_t row_stride, int64_t num_features,
                             Bf16* out) {
  const float* row = rows + blockIdx.x * row_stride;
  for (int64_t f = threadIdx.x; f < num_features; f += blockDim.x) {
    const int64_t gate = f / 8 * 16 + f % 8;
    out[blockIdx.x * num_features + f] = ToBf16(Silu(row[gate]) * row[gate + 8]);
  }
}

/// One block per row.
__global__ void ScatterRowsKernel(const Bf16* rows, const int32_t* out_row, int64_t num_features,
                                  Bf16* out) {
  const Bf16* from = rows + blockIdx.x * num_features;
  Bf16* to = out + out_row[blockIdx.x] * num_features;
  for (int64_t f = threadIdx.x; f < num_features; f += blockDim.x) to[f] = from[f];
}

LaunchShape BlockPerRow(int64_t num_rows) {
  return {.grid = {static_cast<unsigned>(num_rows)}, .block = {kThreads}};
}

}  // namespace

cudaError_t SwiGlu(const Device& device, const SwiGluParams& p) {
  return Launch(SwiGluKernel, BlockPerRow(p.num_rows), device.stream, p.rows, p.row_stride,
                p.num_features, reinterpret_cast<Bf16*>(p.out));
}

cudaError_t ScatterRows(const Device& device, const ScatterParams& p) {
  return Launch(ScatterRowsKernel, BlockPerRow(p.num_rows), device.stream,
                reinterpret_cast<const Bf16*>(p.rows), p.out_row, p.num_features,
                reinterpret_cast<Bf16*>(p.out));
}

}  // namespace moed::kernels::cuda
