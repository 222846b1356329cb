#pragma once

#include <cstdint>

#include "config/base/dtype.h"

namespace moed::kernels {

/// A row-major, contiguous matrix in the memory of a backend; does not own it.
struct TensorView {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;

  template <typename T>
  T* as() const {
    return static_cast<T*>(data);
  }
  int64_t size_bytes() const { return rows * cols * static_cast<int64_t>(SizeBytes(dtype)); }
};

/// The scales of a kF8E4M3 matrix: element (r, c) means its e4m3 value times
/// data[(rows_before + r) / 128, c / 128].
struct BlockScales {
  const float* data = nullptr;  // [ceil((rows_before + rows) / 128), ceil(cols / 128)]
  int64_t rows_before = 0;      // of the first block, where the matrix begins inside it
};
inline constexpr int64_t kScaleBlock = 128;

/// A row-major matrix in host memory (often a mapped file); rows may be strided.
struct HostMatrix {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t row_stride = 0;  // in elements; 0 means cols
  BlockScales scales;      // only kF8E4M3
};

}  // namespace moed::kernels
