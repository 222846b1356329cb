#include "kernels/sampling_math.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
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
    scratch.probabilities.assign(logits.size(), kMinusInfinity);
    for (int32_t id : row.allowed_token_ids) {
      if (InRange(id, logits)) scratch.probabilities[id] = logits[id];
    }
    std::copy(scratch.probabilities.begin(), scratch.probabilities.end(), logits.begin());
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

/// Draws from weights [n] in their order: the first whose running sum passes u times their sum.
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

/// How many of the sorted weights are needed for top_p of the total, or nothing if they do not
/// suffice.
std::optional<size_t> CountForTopP(std::span<const float> sorted, double needed) {
  double sum = 0;
  for (size_t i = 0; i < sorted.size(); ++i) {
    sum += sorted[i];
    if (sum >= needed) return i + 1;
  }
  return std::nullopt;
}

/// Replaces ids by the fewest most likely tokens that reach top_p of `total`; tries few tokens
/// first, for sorting the whole vocabulary would cost more than the rest of sampling.
void SelectTopP(std::span<const float> probabilities, double needed, std::vector<int32_t>& ids) {
  std::vector<float> sorted;
  const auto better = BestFirst(probabilities);
  for (size_t n = 128;; n *= 8) {
    if (n > 1024) {  // a heap no longer pays
      ids.resize(probabilities.size());
      for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i);
      if (n < ids.size()) {
        std::nth_element(ids.begin(), ids.begin() + n, ids.end(), better);
        ids.resize(n);
      }
      std::sort(ids.begin(), ids.end(), better);
    } else {
      SelectBest(probabilities, n, ids);
    }
    sorted.clear();
    for (int32_t id : ids) sorted.push_back(probabilities[id]);
    if (const auto count = CountForTopP(sorted, needed)) return ids.resize(*count);
    if (n >= probabilities.size()) return;  // rounding: all of them
  }
}

/// ids and probabilities of scratch: the top_k best tokens, then top-p of those.
void SelectTopKThenP(const SampleRow& row, std::span<const float> logits,
                     const SamplingLoops& loops, SamplingScratch& scratch) {
  std::vector<int32_t>& ids = scratch.ids;
  if (row.top_k <= 1024) {
    SelectBest(logits, row.top_k, ids);
  } else {
    ids.resize(logits.size());
    for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i);
    const auto better = BestFirst(logits);
    std::nth_element(ids.begin(), ids.begin() + row.top_k, ids.end(), better);
    ids.resize(row.top_k);
    std::sort(ids.begin(), ids.end(), better);
  }
  std::vector<float>& p = scratch.probabilities;
  p.clear();
  for (int32_t id : ids) p.push_back(logits[id]);
  const double total =
      loops.exp_and_sum(p.data(), p[0], InverseTemperature(row), p.size(), p.data());
  if (row.top_p >= 1.0f) return;
  const size_t count = CountForTopP(p, row.top_p * total).value_or(p.size());
  p.resize(count);
  ids.resize(count);
}

/// ids and probabilities of scratch: all tokens, or those of top-p.
void SelectFromAll(const SampleRow& row, std::span<float> logits, const SamplingLoops& loops,
                   SamplingScratch& scratch) {
  const float max = loops.max_value(logits.data(), logits.size());
  std::vector<float>& p = scratch.probabilities;
  p.clear();
  const double total =
      loops.exp_and_sum(logits.data(), max, InverseTemperature(row), logits.size(), logits.data());
  if (row.top_p < 1.0f) {
    SelectTopP(logits, row.top_p * total, scratch.ids);
    for (int32_t id : scratch.ids) p.push_back(logits[id]);
    return;
  }
  scratch.ids.clear();
  p.assign(logits.begin(), logits.end());
}

int32_t SampleToken(const SampleRow& row, std::span<float> logits, const SamplingLoops& loops,
                    SamplingScratch& scratch) {
  const bool limits_k = row.top_k > 0 && row.top_k < static_cast<int64_t>(logits.size());
  if (limits_k) {
    SelectTopKThenP(row, logits, loops, scratch);
  } else {
    SelectFromAll(row, logits, loops, scratch);
  }
  std::vector<float>& p = scratch.probabilities;
  for (float& x : p) x = x < row.min_p ? 0.0f : x;  // the likeliest has 1
  const size_t chosen = Draw(p, UniformForToken(row.seed, row.sequence_index, row.position));
  return scratch.ids.empty() ? static_cast<int32_t>(chosen) : scratch.ids[chosen];
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
  scratch.probabilities.resize(logits.size());
  const float max = loops.max_value(logits.data(), logits.size());
  if (max == kMinusInfinity) return std::log(static_cast<float>(logits.size()));
  const double sum =
      loops.exp_and_sum(logits.data(), max, 1.0f, logits.size(), scratch.probabilities.data());
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
