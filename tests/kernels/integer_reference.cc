#include "tests/kernels/integer_reference.h"

#include <algorithm>
#include <cmath>

namespace moed::kernels {
namespace {

constexpr int64_t kGroup = 32;

QuantizedMatrix EmptyMatrix(int64_t num_values, int64_t k) {
  QuantizedMatrix m;
  m.rows = num_values / k;
  m.groups = (k + kGroup - 1) / kGroup;
  m.q.assign(m.rows * m.groups * kGroup, 0);
  m.scale.assign(m.rows * m.groups, 0);
  return m;
}

/// Calls body(group, values, count, q) for every group of every row; `group` counts them all.
template <typename Body>
void ForEachGroup(const std::vector<float>& values, int64_t k, QuantizedMatrix& m,
                  const Body& body) {
  for (int64_t row = 0; row < m.rows; ++row) {
    for (int64_t g = 0; g < m.groups; ++g) {
      const int64_t index = row * m.groups + g;
      body(index, values.data() + row * k + g * kGroup, std::min(kGroup, k - g * kGroup),
           m.q.data() + index * kGroup);
    }
  }
}

/// The first value of the largest magnitude.
float Extreme(const float* values, int64_t count) {
  return *std::max_element(values, values + count,
                           [](float a, float b) { return std::fabs(a) < std::fabs(b); });
}

}  // namespace

std::vector<OpConfig> IntegerConfigs() {
  std::vector<OpConfig> configs = AllConfigs();
  std::erase_if(configs,
                [](const OpConfig& c) { return c.device != "cpu" || c.dtype != DType::kBF16; });
  return configs;
}

QuantizedMatrix QuantizeWeights(const std::vector<float>& values, int64_t k, WeightFormat format) {
  const bool int8 = format == WeightFormat::kInt8;
  const float lowest = int8 ? -127 : -8, highest = int8 ? 127 : 7;
  QuantizedMatrix m = EmptyMatrix(static_cast<int64_t>(values.size()), k);
  ForEachGroup(values, k, m, [&](int64_t index, const float* w, int64_t count, int8_t* q) {
    const float extreme = Extreme(w, count);
    const float scale = RoundTo(DType::kBF16, int8 ? std::fabs(extreme) / 127 : extreme / -8);
    m.scale[index] = scale;
    if (scale == 0) return;
    const float inverse = 1 / scale;
    for (int64_t i = 0; i < count; ++i) {
      q[i] = static_cast<int8_t>(std::clamp(std::nearbyint(w[i] * inverse), lowest, highest));
    }
  });
  return m;
}

QuantizedMatrix QuantizeActivations(const std::vector<float>& values, int64_t k) {
  QuantizedMatrix m = EmptyMatrix(static_cast<int64_t>(values.size()), k);
  ForEachGroup(values, k, m, [&](int64_t index, const float* x, int64_t count, int8_t* q) {
    const float largest = std::fabs(Extreme(x, count));
    if (largest == 0) return;
    m.scale[index] = largest / 127;
    const float inverse = 127 / largest;
    for (int64_t i = 0; i < count; ++i) {
      q[i] = static_cast<int8_t>(std::nearbyint(x[i] * inverse));
    }
  });
  return m;
}

std::vector<float> Product(const QuantizedMatrix& x, const QuantizedMatrix& w) {
  std::vector<float> y(x.rows * w.rows);
  for (int64_t r = 0; r < x.rows; ++r) {
    for (int64_t c = 0; c < w.rows; ++c) {
      double sum = 0;
      for (int64_t g = 0; g < x.groups; ++g) {
        const int64_t of_x = r * x.groups + g, of_w = c * w.groups + g;
        int32_t dot = 0;
        for (int64_t i = 0; i < kGroup; ++i) dot += x.q[of_x * kGroup + i] * w.q[of_w * kGroup + i];
        sum += x.scale[of_x] * w.scale[of_w] * dot;
      }
      y[r * w.rows + c] = static_cast<float>(sum);
    }
  }
  return y;
}

double RelativeError(const std::vector<float>& got, const std::vector<float>& expected) {
  double error = 0, size = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    error += std::pow(static_cast<double>(got[i]) - expected[i], 2);
    size += std::pow(static_cast<double>(expected[i]), 2);
  }
  return std::sqrt(error / size);
}

}  // namespace moed::kernels
