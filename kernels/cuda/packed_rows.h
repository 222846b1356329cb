#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "config/base/dtype.h"
#include "kernels/cuda/ops.h"

namespace moed::kernels::cuda {

/// Rows in device memory, and the packed matrix they become a part of.
struct PackRowsParams {
  DType source = DType::kBF16;    // kBF16 or kF32 to integers, kF8E4M3 to fp8
  const void* rows = nullptr;     // [num_rows, to.cols]
  const float* scales = nullptr;  // only fp8: [num_rows, ceil(to.cols / 128)]
  int64_t first_row = 0;          // counted through all matrices of `to`
  int64_t num_rows = 0;
  DeviceMatrix to;  // its memory is written
};

/// Quantises a group of 32 neighbours: int8: scale = largest magnitude / 127, int4: the first
/// element of that magnitude / -8, rounded to bf16; values to the nearest that the scale can say,
/// as on CPUs. A group with an infinity or NaN gets the scale NaN, and so do 128 neighbours of fp8
/// with a NaN.
cudaError_t PackRows(const Device& device, const PackRowsParams& params);  // packed_rows.cu

/// EmbedTokens of ops.h for a packed table.
cudaError_t EmbedPackedTokens(const Device& device, const DeviceMatrix& table, const int32_t* ids,
                              float scale, TensorView hidden);  // packed_rows.cu

}  // namespace moed::kernels::cuda
