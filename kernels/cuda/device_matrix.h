#pragma once

#include <cstdint>

namespace moed::kernels::cuda {

/// How the elements of a matrix are kept in device memory.
enum class Encoding : uint8_t {
  kBf16,
  kInt8,    // q + 128, with a bf16 scale for 32 neighbours along K
  kInt4,    // q + 8, likewise
  kF8E4M3,  // with an f32 scale for 128 neighbours along K
};

/// Equal matrices one behind the other in device memory; does not own it.
///
/// bf16: `data` is the elements by rows, each padded with zeros to row_stride, a multiple of
/// kKTile. Other encodings are packed as packed_layout.cuh says: `data` is their bytes, `scales`
/// the scales.
struct DeviceMatrix {
  const uint16_t* data = nullptr;
  int64_t num_matrices = 1;
  int64_t rows = 0;  // of one matrix
  int64_t cols = 0;
  int64_t row_stride = 0;
  Encoding encoding = Encoding::kBf16;
  const void* scales = nullptr;
};

/// How many elements along K a step of the GEMM takes.
constexpr int64_t kKTile = 64;

}  // namespace moed::kernels::cuda
