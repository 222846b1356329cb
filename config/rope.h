#pragma once

#include <cstdint>
#include <vector>

#include "config/model_config.h"

namespace moed {

/// The rotation per position of each pair (j, j + head_dim / 2): [head_dim / 2], radians per
/// position, for config.type. head_dim must be even. Computed in float32 where the transformers
/// library does (modeling_rope_utils.py), whose results it follows to the last bits.
std::vector<float> ComputeRopeInvFreq(const RopeConfig& config, int64_t head_dim);

/// cos and sin of position * inv_freq, each [max_positions, head_dim / 2] row-major, times
/// attention_factor.
struct RopeTables {
  std::vector<float> cos;
  std::vector<float> sin;
};
RopeTables ComputeRopeTables(const RopeConfig& config, int64_t head_dim, int64_t max_positions);

/// What yarn multiplies cos and sin by when config.json does not say: m(factor, mscale) /
/// m(factor, mscale_all_dim) if both are not 0, else m(factor, 1), with m(s, a) = 0.1 a ln(s) + 1
/// for s > 1, else 1 (Peng et al. 2023, section 3.4).
double YarnAttentionFactor(double factor, double mscale, double mscale_all_dim);

}  // namespace moed
