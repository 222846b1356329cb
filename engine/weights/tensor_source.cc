#include "engine/weights/tensor_source.h"

#include "config/base/check.h"
#include "kernels/host_weights.h"

namespace moed {

std::vector<float> ToFloat(const kernels::HostMatrix& matrix) {
  MOED_CHECK(matrix.dtype != DType::kI32);
  std::vector<float> values(static_cast<size_t>(matrix.rows * matrix.cols));
  for (int64_t row = 0; row < matrix.rows; ++row) {
    kernels::ReadFloats(RowOf(matrix, row), 0, matrix.cols, values.data() + row * matrix.cols);
  }
  return values;
}

}  // namespace moed
