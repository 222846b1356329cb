#pragma once

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "config/base/dtype.h"
#include "kernels/params.h"
#include "kernels/tensor_view.h"

/// What backends share when they take weights from host memory.
namespace moed::kernels {

/// One row of a source matrix; no data stands for a row of zeros.
struct SourceRow {
  const char* data = nullptr;
  DType dtype = DType::kBF16;     // kBF16, kF16, kF32 or kF8E4M3
  const float* scales = nullptr;  // with kF8E4M3: of each kScaleBlock neighbours
};

SourceRow RowOf(const HostMatrix& matrix, int64_t row);

/// out[0..count) = elements [begin, begin + count) of a row that has data.
void ReadFloats(const SourceRow& row, int64_t begin, int64_t count, float* out);

/// INVALID_ARGUMENT unless the matrix is [rows, cols] of f32, bf16, f16 or f8_e4m3 with its scales,
/// with 1 to 2^31 of each; `what` names it.
absl::Status CheckSource(const HostMatrix& matrix, int64_t rows, int64_t cols, const char* what);

/// INVALID_ARGUMENT unless there are matrices and all have the columns of the first.
absl::Status CheckSources(std::span<const HostMatrix> stacked);

/// INVALID_ARGUMENT unless there are experts and all have the shapes of the first.
absl::Status CheckSources(std::span<const ExpertSource> experts);

}  // namespace moed::kernels
