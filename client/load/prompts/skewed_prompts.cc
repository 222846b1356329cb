#include "client/load/prompts/skewed_prompts.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "config/base/check.h"

namespace moed::load {

std::vector<std::vector<int32_t>> MakeTopics(const TokenRange& tokens, int count, uint64_t seed) {
  std::vector<std::vector<int32_t>> topics;
  for (int i = 0; i < count; ++i) {
    Random random(seed ^ 0x746f7069, static_cast<uint64_t>(i));
    std::vector<int32_t>& topic = topics.emplace_back();
    for (int token = 0; token < 1 << (i % 5); ++token) topic.push_back(tokens.Draw(random));
  }
  return topics;
}

SkewedPrompts::SkewedPrompts(Params params) : params_(std::move(params)) {
  MOED_CHECK(!params_.mixes.empty());
  for (const std::vector<double>& mix : params_.mixes) {
    MOED_CHECK(mix.size() == params_.topics.size() && !mix.empty());
    std::vector<double>& bounds = bounds_.emplace_back(mix.size());
    std::partial_sum(mix.begin(), mix.end(), bounds.begin());
  }
}

Prompt SkewedPrompts::Make(const PromptRequest& request) const {
  Random random(params_.lengths.seed, static_cast<uint64_t>(request.index));
  size_t mix = 0;
  if (params_.drift_seconds > 0) {
    mix = static_cast<size_t>(std::max(0.0, request.seconds) / params_.drift_seconds) %
          bounds_.size();
  }
  const std::vector<double>& bounds = bounds_[mix];
  const auto found =
      std::upper_bound(bounds.begin(), bounds.end(), random.Uniform() * bounds.back());
  const size_t topic = std::min(static_cast<size_t>(found - bounds.begin()), bounds.size() - 1);
  const std::vector<int32_t>& ids = params_.topics[topic];
  Prompt prompt;
  const int64_t length = params_.lengths.input.SampleInteger(random);
  prompt.max_tokens = params_.lengths.output.SampleInteger(random);
  for (int64_t i = 0; i < length; ++i) {
    prompt.token_ids.push_back(ids[random.Below(ids.size())]);
  }
  return prompt;
}

}  // namespace moed::load
