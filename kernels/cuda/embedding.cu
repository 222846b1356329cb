#include "kernels/cuda/device.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/packed_rows.h"

namespace moed::kernels::cuda {
namespace {

/// One block per token: hidden[t, :] = scale * table[ids[t], :].
__global__ void EmbedTokensKernel(const Bf16* table, int64_t row_stride, const int32_t* ids,
                                  float scale, int64_t cols, float* hidden) {
  const Bf16* row = table + ids[blockIdx.x] * row_stride;
  float* out = hidden + blockIdx.x * cols;
  for (int64_t i = threadIdx.x; i < cols; i += blockDim.x) out[i] = scale * ToFloat(row[i]);
}

}  // namespace

cudaError_t EmbedTokens(const Device& device, const DeviceMatrix& table, const int32_t* ids,
                        float scale, TensorView hidden) {
  if (table.encoding != Encoding::kBf16) {
    return EmbedPackedTokens(device, table, ids, scale, hidden);
  }
  return Launch(EmbedTokensKernel, {.grid = {static_cast<unsigned>(hidden.rows)}, .block = {256}},
                device.stream, reinterpret_cast<const Bf16*>(table.data), table.row_stride, ids,
                scale, hidden.cols, hidden.as<float>());
}

}  // namespace moed::kernels::cuda
