#include "kernels/sampling_math.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "config/base/check.h"
#include "kernels/philox.h"

namespace moed::kernels {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

bool InRange(int32_t id, std::span<const float> logits) {
  return id >= 0 && id < static_cast<int64_t>(logits.size());
}

/// Larger value first, then lower id: the one order of tokens.
auto BestFirst(std::span<const float> values) {
  return [values](int32_t a, int32_t b) {
    return values[a] != values[b] ? values[a] > values[b] : a < b;
  };
}

void ReplaceNonFinite(std::span<float> logits) {
  for (float& x : logits) {
    x = std::isnan(x) ? kMinusInfinity : std::min(x, std::numeric_limits<float>::max());
  }
}

float InverseTemperature(const SampleRow& row) {
  return std::min(1.0f / row.temperature, std::numeric_limits<float>::max());
}

/// The first id with the largest value.
int32_t ArgMax(std::span<const float> logits, float max) {
  return static_cast<int32_t>(std::find(logits.begin(), logits.end(), max) - logits.begin());
}

/// The n best ids of all, best first. Keeps a heap whose front is the worst of the best so far.
void SelectBest(std::span<const float> values, size_t n, std::vector<int32_t>& ids) {
  const auto better = BestFirst(values);
  ids.clear();
  n = std::min(n, values.size());
  if (n == 0) return;
  for (size_t i = 0; i < values.size(); ++i) {
    const int32_t id = static_cast<int32_t>(i);
    if (ids.size() < n) {
      ids.push_back(id);
      std::push_heap(ids.begin(), ids.end(), better);
    } else if (values[i] > values[ids.front()]) {
      std::pop_heap(ids.begin(), ids.end(), better);
      ids.back() = id;
      std::push_heap(ids.begin(), ids.end(), better);
    }
  }
  std::sort_heap(ids.begin(), ids.end(), better);
}

void Mask(const SampleRow& row, std::span<float> logits, SamplingScratch& scratch) {
  if (!row.allowed_token_ids.empty()) {
    scratch.weights.assign(logits.size(), kMinusInfinity);
    for (int32_t id : row.allowed_token_ids) {
      if (InRange(id, logits)) scratch.weights[id] = logits[id];
    }
    std::copy(scratch.weights.begin(), scratch.weights.end(), logits.begin());
  }
  for (int32_t id : row.banned_token_ids) {
    if (InRange(id, logits)) logits[id] = kMinusInfinity;
  }
}

void Penalize(const SampleRow& row, std::span<float> logits) {
  for (const auto& [id, bias] : row.logit_bias) {
    if (InRange(id, logits) && logits[id] != kMinusInfinity) logits[id] += bias;
  }
  for (size_t i = 0; i < row.counted_token_ids.size(); ++i) {
    const int32_t id = row.counted_token_ids[i];
    if (!InRange(id, logits) || logits[id] == kMinusInfinity) continue;
    float& x = logits[id];
    x = x > 0 ? x / row.repetition_penalty : x * row.repetition_penalty;
    const int32_t count = i < row.output_counts.size() ? row.output_counts[i] : 0;
    if (count > 0) x -= row.presence_penalty + row.frequency_penalty * static_cast<float>(count);
  }
}

/// With nothing to choose from: see ChooseToken.
int32_t LowestPermitted(const SampleRow& row, std::span<const float> logits) {
  std::vector<char> permitted(logits.size(), row.allowed_token_ids.empty());
  for (int32_t id : row.allowed_token_ids) {
    if (InRange(id, logits)) permitted[id] = 1;
  }
  for (int32_t id : row.banned_token_ids) {
    if (InRange(id, logits)) permitted[id] = 0;
  }
  const auto first = std::find(permitted.begin(), permitted.end(), 1);
  return first == permitted.end() ? 0 : static_cast<int32_t>(first - permitted.begin());
}

/// Draws from weights [n], in order of token ids: the first whose running sum passes u times their
/// sum.
size_t Draw(std::span<const float> weights, double u) {
  double total = 0;
  for (float w : weights) total += w;
  double sum = 0;
  size_t last = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] <= 0) continue;
    last = i;
    sum += weights[i];
    if (sum > u * total) break;
  }
  return last;
}

/// Which tokens remain, as weights [n]: all of the vocabulary, or those of ids.
struct Candidates {
  std::span<float> weights;
  std::span<const int32_t> ids;  // empty: weight i is token i's
};

// Weights in [0, 1] fall into buckets by exponent and 5 bits of mantissa.
constexpr int kBuckets = 4096;
int Bucket(float weight) { return static_cast<int>(std::bit_cast<uint32_t>(weight) >> 18); }

/// Sets all weights to 0 but the fewest, largest ones that sum to `needed` or more. Adds up buckets
/// and sorts only the one on the border: sorting the vocabulary would cost more than the rest of
/// sampling.
void KeepTopP(double needed, std::span<float> weights, SamplingScratch& scratch) {
  std::vector<double>& sums = scratch.bucket_sums;
  sums.assign(kBuckets, 0.0);
  for (float w : weights) sums[Bucket(w)] += w;
  double sum = 0;
  int border = kBuckets - 1;
  for (; border >= 0; --border) {
    if (sums[border] > 0 && sum + sums[border] >= needed) break;
    sum += sums[border];
  }
  if (border < 0) return;  // rounding: all are needed
  std::vector<int32_t> on_border;
  for (size_t i = 0; i < weights.size(); ++i) {
    const int bucket = Bucket(weights[i]);
    if (bucket == border) on_border.push_back(static_cast<int32_t>(i));
    if (bucket < border) weights[i] = 0;
  }
  std::sort(on_border.begin(), on_border.end(), BestFirst(weights));
  size_t kept = 0;
  while (kept < on_border.size()) {
    sum += weights[on_border[kept++]];
    if (sum >= needed) break;
  }
  for (; kept < on_border.size(); ++kept) weights[on_border[kept]] = 0;
}

/// The top_k best tokens by id, and their logits.
Candidates SelectTopK(const SampleRow& row, std::span<const float> logits,
                      SamplingScratch& scratch) {
  std::vector<int32_t>& ids = scratch.ids;
  if (row.top_k <= 1024) {
    SelectBest(logits, row.top_k, ids);
  } else {  // a heap no longer pays
    ids.resize(logits.size());
    std::iota(ids.begin(), ids.end(), 0);
    std::nth_element(ids.begin(), ids.begin() + row.top_k, ids.end(), BestFirst(logits));
    ids.resize(row.top_k);
  }
  std::sort(ids.begin(), ids.end());
  scratch.weights.clear();
  for (int32_t id : ids) scratch.weights.push_back(logits[id]);
  return {.weights = scratch.weights, .ids = ids};
}

int32_t SampleToken(const SampleRow& row, std::span<float> logits, const SamplingLoops& loops,
                    SamplingScratch& scratch) {
  const bool limits_k = row.top_k > 0 && row.top_k < static_cast<int64_t>(logits.size());
  const Candidates candidates =
      limits_k ? SelectTopK(row, logits, scratch) : Candidates{.weights = logits, .ids = {}};
  float* w = candidates.weights.data();
  const int64_t n = static_cast<int64_t>(candidates.weights.size());
  const double total = loops.exp_and_sum(w, loops.max_value(w, n), InverseTemperature(row), n, w);
  if (row.top_p < 1.0f) KeepTopP(row.top_p * total, candidates.weights, scratch);
  const float min_weight = std::min(row.min_p, 1.0f);  // the likeliest has 1
  for (int64_t i = 0; i < n; ++i) w[i] = w[i] < min_weight ? 0.0f : w[i];
  const double u = UniformForToken(row.seed, row.sequence_index, row.position);
  const size_t chosen = Draw(candidates.weights, u);
  return limits_k ? candidates.ids[chosen] : static_cast<int32_t>(chosen);
}

int32_t Choose(const SampleRow& row, std::span<float> logits, const SamplingLoops& loops,
               SamplingScratch& scratch) {
  Mask(row, logits, scratch);
  Penalize(row, logits);
  ReplaceNonFinite(logits);
  const float max = loops.max_value(logits.data(), logits.size());
  if (max == kMinusInfinity) return LowestPermitted(row, logits);
  if (row.temperature <= 0.0f) return ArgMax(logits, max);
  return SampleToken(row, logits, loops, scratch);
}

/// Log-sum-exp of the row; raw keeps the logits, for the caller clobbers them.
float KeepRawLogits(std::span<const float> logits, const SamplingLoops& loops,
                    SamplingScratch& scratch) {
  scratch.raw.assign(logits.begin(), logits.end());
  scratch.weights.resize(logits.size());
  const float max = loops.max_value(logits.data(), logits.size());
  if (max == kMinusInfinity) return std::log(static_cast<float>(logits.size()));
  const double sum =
      loops.exp_and_sum(logits.data(), max, 1.0f, logits.size(), scratch.weights.data());
  return static_cast<float>(max + std::log(sum));
}

}  // namespace

SampleOutput ChooseToken(const SampleRow& row, std::span<float> logits, const SamplingLoops& loops,
                         SamplingScratch& scratch) {
  MOED_CHECK(!logits.empty());
  ReplaceNonFinite(logits);
  SampleOutput out;
  if (row.num_top_logprobs < 0) {
    out.token_id = Choose(row, logits, loops, scratch);
    return out;
  }
  const float log_sum = KeepRawLogits(logits, loops, scratch);
  SelectBest(logits, row.num_top_logprobs, scratch.ids);
  for (int32_t id : scratch.ids) out.top_logprobs.emplace_back(id, scratch.raw[id] - log_sum);
  out.token_id = Choose(row, logits, loops, scratch);
  out.logprob = scratch.raw[out.token_id] - log_sum;
  return out;
}

}  // namespace moed::kernels
