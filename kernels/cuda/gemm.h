#pragma once

#include <cstdint>

#include "kernels/cuda/ops.h"

namespace moed::kernels::cuda {

/// What becomes of a sum over K.
enum class GemmEpilogue : uint8_t {
  kStore,       // out f32 = sum + bias
  kAccumulate,  // out f32 += scale * (sum + bias)
  kSwiGlu,      // weight rows come as 8 of gate, 8 of up; out bf16 = silu(gate) * up
  kRound,       // out bf16 = sum
};

/// Some products of one shape: out rows [offsets[m], offsets[m + 1]) = x rows times matrix m, for
/// each m. All arrays are in device memory.
struct GemmParams {
  const uint16_t* x = nullptr;     // [*, weights.cols] bf16
  const int32_t* x_row = nullptr;  // row of x for each row, or null: row i is x row i
  DeviceMatrix weights;
  /// [num_matrices + 1], or null: one matrix, [0, num_rows). The host need not know them.
  const int32_t* offsets = nullptr;
  int64_t num_rows = 0;             // in all
  int64_t max_rows_per_matrix = 0;  // no matrix has more; chooses kernels, changes no bit
  GemmEpilogue epilogue = GemmEpilogue::kStore;
  void* out = nullptr;               // [*, num_features]
  const int32_t* out_row = nullptr;  // only kRound: row of out for each row, or null
  int64_t num_features = 0;          // columns of out
  const float* bias = nullptr;       // only f32 outputs: [num_features] or null
  float scale = 1.0f;                // only kAccumulate
};

cudaError_t Gemm(const Device& device, const GemmParams& params);        // gemm.cu
cudaError_t PackedGemm(const Device& device, const GemmParams& params);  // gemm_packed.cu

}  // namespace moed::kernels::cuda
