#pragma once

#include <cstdint>
#include <vector>

#include "kernels/params.h"
#include "tests/kernels/op_test_util.h"

/// Integer products by their rules, one number at a time: see WeightFormat, panel_packing.h and
/// kernel_table.h. Nothing here is code of the backend.
namespace moed::kernels {

/// The CPU's instruction sets with bf16 activations: the backends that keep integers.
std::vector<OpConfig> IntegerConfigs();

/// Rows of integers, with a scale for 32 neighbours.
struct QuantizedMatrix {
  int64_t rows = 0;
  int64_t groups = 0;         // of a row
  std::vector<int8_t> q;      // [rows, groups, 32], zeros beyond the last column
  std::vector<double> scale;  // [rows, groups]

  double Value(int64_t row, int64_t column) const {
    return scale[row * groups + column / 32] * q[row * groups * 32 + column];
  }
};

/// values [*, k], finite. int8: scale = largest magnitude / 127; int4: the value of the largest
/// magnitude / -8; both rounded to bf16. q = value times (1 / scale), to nearest, from -127 to 127
/// or from -8 to 7.
QuantizedMatrix QuantizeWeights(const std::vector<float>& values, int64_t k, WeightFormat format);

/// values [*, k], bf16, finite. scale = largest magnitude / 127, q = value times (127 / largest
/// magnitude) to nearest.
QuantizedMatrix QuantizeActivations(const std::vector<float>& values, int64_t k);

/// y [x.rows, w.rows] = x W^T; groups are exact, their sum is in double.
std::vector<float> Product(const QuantizedMatrix& x, const QuantizedMatrix& w);

/// Root mean square of the difference over that of `expected`.
double RelativeError(const std::vector<float>& got, const std::vector<float>& expected);

}  // namespace moed::kernels
