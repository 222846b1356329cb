#include "engine/weights/tensor_source.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "config/base/check.h"

namespace moed {
namespace {

float HalfToFloat(uint16_t half) {
  const int exponent = (half >> 10) & 31;
  const int mantissa = half & 1023;
  float magnitude;
  if (exponent == 31) {
    magnitude = mantissa == 0 ? INFINITY : NAN;
  } else if (exponent == 0) {
    magnitude = std::ldexp(static_cast<float>(mantissa), -24);
  } else {
    magnitude = std::ldexp(static_cast<float>(mantissa + 1024), exponent - 25);
  }
  return (half & 0x8000) != 0 ? -magnitude : magnitude;
}

float ElementToFloat(const std::byte* data, DType dtype) {
  if (dtype == DType::kF32) {
    float value;
    std::memcpy(&value, data, sizeof(value));
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, data, sizeof(bits));
  if (dtype == DType::kF16) return HalfToFloat(bits);
  return std::bit_cast<float>(uint32_t{bits} << 16);
}

}  // namespace

std::vector<float> ToFloat(const kernels::HostMatrix& matrix) {
  MOED_CHECK(matrix.dtype != DType::kI32);
  const int64_t stride = matrix.row_stride == 0 ? matrix.cols : matrix.row_stride;
  const auto element_bytes = static_cast<int64_t>(SizeBytes(matrix.dtype));
  std::vector<float> values;
  values.reserve(matrix.rows * matrix.cols);
  for (int64_t row = 0; row < matrix.rows; ++row) {
    const std::byte* data =
        static_cast<const std::byte*>(matrix.data) + row * stride * element_bytes;
    for (int64_t col = 0; col < matrix.cols; ++col) {
      values.push_back(ElementToFloat(data + col * element_bytes, matrix.dtype));
    }
  }
  return values;
}

}  // namespace moed
