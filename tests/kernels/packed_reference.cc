#include "tests/kernels/packed_reference.h"

#include <cmath>
#include <random>

#include "tests/kernels/integer_reference.h"

namespace moed::kernels {
namespace {

/// By the definition of the format: sign, 4 bits of exponent with bias 7, 3 bits of mantissa.
float F8Value(uint8_t bits) {
  const int exponent = (bits >> 3) & 15, mantissa = bits & 7;
  const float magnitude = exponent == 0
                              ? std::ldexp(static_cast<float>(mantissa), -9)
                              : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
  return (bits & 0x80) != 0 ? -magnitude : magnitude;
}

}  // namespace

HostFp8::HostFp8(const Shape& shape, uint32_t seed, float scale) : shape_(shape) {
  const int64_t blocks = (shape.cols + 127) / 128;
  const int64_t block_rows = (shape.rows_before + shape.rows + 127) / 128;
  std::mt19937 random(seed);
  std::uniform_int_distribution<int> byte(0, 255);
  std::uniform_real_distribution<float> factor(0.5f, 2.0f);
  // The root mean square of all e4m3 numbers is 121.
  for (int64_t i = 0; i < block_rows * blocks; ++i) {
    scales_.push_back(scale / 121 * factor(random));
  }
  for (int64_t i = 0; i < shape.rows * shape.cols; ++i) {
    int bits = byte(random);
    while ((bits & 0x7f) == 0x7f) bits = byte(random);
    bytes_.push_back(static_cast<uint8_t>(bits));
    const int64_t block_row = (shape.rows_before + i / shape.cols) / 128;
    values_.push_back(F8Value(bytes_.back()) * scales_[block_row * blocks + i % shape.cols / 128]);
  }
}

HostMatrix HostFp8::matrix() const {
  return {.data = bytes_.data(),
          .dtype = DType::kF8E4M3,
          .rows = shape_.rows,
          .cols = shape_.cols,
          .scales = {.data = scales_.data(), .rows_before = shape_.rows_before}};
}

std::string PackingName(Packing packing) {
  switch (packing) {
    case Packing::kInt8:
      return "int8";
    case Packing::kInt4:
      return "int4";
    case Packing::kFp8:
      return "fp8";
  }
  return "";
}

WeightFormat FormatOf(Packing packing) {
  switch (packing) {
    case Packing::kInt8:
      return WeightFormat::kInt8;
    case Packing::kInt4:
      return WeightFormat::kInt4;
    case Packing::kFp8:
      break;
  }
  return WeightFormat::kStored;
}

PackedSource::PackedSource(const Params& p) {
  if (p.packing == Packing::kFp8) {
    fp8_.push_back(
        HostFp8({.rows = p.rows, .cols = p.cols, .rows_before = p.seed % 128}, p.seed, p.scale));
    matrix_ = fp8_.back().matrix();
    values_ = fp8_.back().values();
    return;
  }
  const auto stored = RandomValues(p.rows * p.cols, p.seed, p.source, p.scale);
  host_.emplace_back(stored, p.cols, p.source, p.cols + p.seed % 5);
  matrix_ = host_.back().matrix();
  const QuantizedMatrix q = QuantizeWeights(stored, p.cols, FormatOf(p.packing));
  for (int64_t r = 0; r < p.rows; ++r) {
    for (int64_t c = 0; c < p.cols; ++c) values_.push_back(static_cast<float>(q.Value(r, c)));
  }
}

}  // namespace moed::kernels
