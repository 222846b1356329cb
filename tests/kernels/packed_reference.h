#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/params.h"
#include "tests/kernels/op_test_util.h"

/// Weights that meet bf16 activations with nothing rounded but themselves: integers and fp8 on CUDA
/// backends, fp8 in the f32 CPU backend.
namespace moed::kernels {

/// Host memory of an fp8 matrix and its scales, and what they mean. The matrix may begin inside its
/// first block of 128 rows.
class HostFp8 {
 public:
  struct Shape {
    int64_t rows = 0;
    int64_t cols = 0;
    int64_t rows_before = 0;
  };
  HostFp8(const Shape& shape, uint32_t seed, float scale = 1.0f);

  HostMatrix matrix() const;
  const std::vector<float>& values() const { return values_; }
  /// Makes an element NaN.
  void SetNan(int64_t row, int64_t column) { bytes_[row * shape_.cols + column] = 0xff; }

 private:
  Shape shape_;
  std::vector<uint8_t> bytes_;
  std::vector<float> scales_;
  std::vector<float> values_;
};

/// One way of keeping weights.
enum class Packing : uint8_t { kInt8, kInt4, kFp8 };
std::string PackingName(Packing packing);
WeightFormat FormatOf(Packing packing);

/// A matrix for a packing to keep: its source, and the values that are kept.
class PackedSource {
 public:
  struct Params {
    Packing packing = Packing::kInt8;
    int64_t rows = 0;
    int64_t cols = 0;
    uint32_t seed = 0;
    float scale = 1.0f;           // of the values
    DType source = DType::kBF16;  // of those that become integers
  };
  explicit PackedSource(const Params& params);

  HostMatrix matrix() const { return matrix_; }
  const std::vector<float>& values() const { return values_; }

 private:
  std::vector<HostWeights> host_;  // one, or none
  std::vector<HostFp8> fp8_;
  HostMatrix matrix_;
  std::vector<float> values_;
};

}  // namespace moed::kernels
