#include "config/rope.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numbers>

#include "config/base/check.h"

namespace moed {
namespace {

// theta^(2j / head_dim): the wavelength of pair j, over 2 pi.
std::vector<float> BaseFrequencies(const RopeConfig& config, int64_t head_dim) {
  std::vector<float> frequencies(head_dim / 2);
  for (size_t j = 0; j < frequencies.size(); ++j) {
    const float exponent = static_cast<float>(2 * j) / static_cast<float>(head_dim);
    frequencies[j] = std::pow(static_cast<float>(config.theta), exponent);
  }
  return frequencies;
}

float Llama3InvFreq(const RopeConfig& config, float inv_freq) {
  const auto original = static_cast<double>(config.original_max_positions);
  const double wavelength = 2 * std::numbers::pi / inv_freq;
  if (wavelength > original / config.low_freq_factor) {
    return static_cast<float>(inv_freq / config.factor);
  }
  if (wavelength < original / config.high_freq_factor ||
      config.high_freq_factor == config.low_freq_factor) {
    return inv_freq;
  }
  const double smooth = (original / wavelength - config.low_freq_factor) /
                        (config.high_freq_factor - config.low_freq_factor);
  return static_cast<float>((1 - smooth) * inv_freq / config.factor + smooth * inv_freq);
}

// The pair that turns `num_rotations` times within the original context.
double YarnCorrectionDim(const RopeConfig& config, double head_dim, double num_rotations) {
  const auto original = static_cast<double>(config.original_max_positions);
  return head_dim * std::log(original / (num_rotations * 2 * std::numbers::pi)) /
         (2 * std::log(config.theta));
}

// Blends interpolated and original frequencies: pairs below `low` turn fast and stay as they are,
// pairs above `high` are interpolated.
std::vector<float> YarnInvFreq(const RopeConfig& config, int64_t head_dim) {
  const auto dim = static_cast<double>(head_dim);
  double low = YarnCorrectionDim(config, dim, config.beta_fast);
  double high = YarnCorrectionDim(config, dim, config.beta_slow);
  if (config.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, dim - 1);
  if (low == high) high += 0.001;

  std::vector<float> inv_freq = BaseFrequencies(config, head_dim);
  for (size_t j = 0; j < inv_freq.size(); ++j) {
    const float extrapolated = 1.0f / inv_freq[j];
    const float interpolated = 1.0f / (static_cast<float>(config.factor) * inv_freq[j]);
    const auto ramp =
        static_cast<float>(std::clamp((static_cast<double>(j) - low) / (high - low), 0.0, 1.0));
    inv_freq[j] = interpolated * ramp + extrapolated * (1 - ramp);
  }
  return inv_freq;
}

}  // namespace

std::vector<float> ComputeRopeInvFreq(const RopeConfig& config, int64_t head_dim) {
  MOED_CHECK(head_dim > 0 && head_dim % 2 == 0);
  if (config.type == RopeType::kYarn) return YarnInvFreq(config, head_dim);
  std::vector<float> inv_freq = BaseFrequencies(config, head_dim);
  for (float& value : inv_freq) {
    value = 1.0f / value;
    if (config.type == RopeType::kLinear) value /= static_cast<float>(config.factor);
    if (config.type == RopeType::kLlama3) value = Llama3InvFreq(config, value);
  }
  return inv_freq;
}

RopeTables ComputeRopeTables(const RopeConfig& config, int64_t head_dim, int64_t max_positions) {
  const std::vector<float> inv_freq = ComputeRopeInvFreq(config, head_dim);
  const auto factor = static_cast<float>(config.attention_factor);
  RopeTables tables;
  tables.cos.reserve(max_positions * inv_freq.size());
  tables.sin.reserve(max_positions * inv_freq.size());
  for (int64_t position = 0; position < max_positions; ++position) {
    for (const float frequency : inv_freq) {
      const float angle = static_cast<float>(position) * frequency;
      tables.cos.push_back(std::cos(angle) * factor);
      tables.sin.push_back(std::sin(angle) * factor);
    }
  }
  return tables;
}

double YarnAttentionFactor(double factor, double mscale, double mscale_all_dim) {
  const auto magnitude = [factor](double scale) {
    return factor <= 1 ? 1.0 : 0.1 * scale * std::log(factor) + 1.0;
  };
  if (mscale != 0 && mscale_all_dim != 0) return magnitude(mscale) / magnitude(mscale_all_dim);
  return magnitude(1);
}

}  // namespace moed
