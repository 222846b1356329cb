#pragma once

#include <cstdint>

namespace moed::kernels::cuda {

/// Equal bf16 matrices one behind the other in device memory. A row is padded with zeros to
/// row_stride elements, a multiple of kKTile; does not own the memory.
struct DeviceMatrix {
  const uint16_t* data = nullptr;
  int64_t num_matrices = 1;
  int64_t rows = 0;  // of one matrix
  int64_t cols = 0;
  int64_t row_stride = 0;
};

/// How many elements along K a step of the GEMM takes.
constexpr int64_t kKTile = 64;

}  // namespace moed::kernels::cuda
