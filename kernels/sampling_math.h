#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/params.h"

namespace moed::kernels {

/// The two loops over the vocabulary that are worth an instruction set of their own; see
/// kernels/cpu/kernel_table.h.
struct SamplingLoops {
  float (*max_value)(const float* x, int64_t n) = nullptr;
  double (*exp_and_sum)(const float* x, float max, float scale, int64_t n, float* out) = nullptr;
};

/// Memory that one thread uses again from row to row.
struct SamplingScratch {
  std::vector<float> raw;
  std::vector<int32_t> ids;
  std::vector<float> weights;
  std::vector<double> bucket_sums;
};

/// Chooses one token. `logits` [num_valid_tokens] is clobbered.
///
/// In this order: log-probabilities of the logits as they came, over the valid tokens; allowed and
/// banned tokens; logit bias; repetition penalty (a counted token's logit is divided by it if
/// positive, else multiplied), presence and frequency penalties (tokens with an output count);
/// then, at temperature 0, the largest logit; else softmax at the temperature, top-k, top-p (the
/// fewest tokens whose probabilities sum to top_p or more), min-p (tokens at least min_p times as
/// likely as the likeliest), and a draw with UniformForToken(). Of equal tokens the lower id comes
/// first everywhere. NaN counts as -infinity.
///
/// When no token is left with a finite logit, the lowest id that is allowed and not banned is
/// chosen; when there is none either, token 0. Ids out of range in a list are ignored.
SampleOutput ChooseToken(const SampleRow& row, std::span<float> logits, const SamplingLoops& loops,
                         SamplingScratch& scratch);

}  // namespace moed::kernels
