#include "engine/sampling/sampler.h"

#include <cstddef>

#include "config/base/check.h"

namespace moed {
namespace {

size_t NumTokenCounts(std::span<const Slice> slices) {
  size_t total = 0;
  for (const Slice& slice : slices) {
    if (slice.sample) total += slice.sample->token_counts.size();
  }
  return total;
}

SampledToken ToSampledToken(uint64_t sequence_id, const SamplingParams& params,
                            const kernels::SampleOutput& output) {
  SampledToken token{.sequence_id = sequence_id, .token_id = output.token_id};
  if (params.num_top_logprobs < 0) return token;
  token.logprob = output.logprob;
  token.top_logprobs.reserve(output.top_logprobs.size());
  for (const auto& [token_id, logprob] : output.top_logprobs) {
    token.top_logprobs.push_back({.token_id = token_id, .logprob = logprob});
  }
  return token;
}

}  // namespace

void Sampler::AppendRow(const SampleRequest& request) {
  const SamplingParams& params = request.params;
  const size_t begin = counted_token_ids_.size();
  if (params.UsesPenalties()) {
    for (const TokenCount& count : request.token_counts) {
      counted_token_ids_.push_back(count.token_id);
      output_counts_.push_back(count.num_in_output);
    }
  }
  const size_t num_counted = counted_token_ids_.size() - begin;
  rows_.push_back({.temperature = params.temperature,
                   .top_k = params.top_k,
                   .top_p = params.top_p,
                   .min_p = params.min_p,
                   .presence_penalty = params.presence_penalty,
                   .frequency_penalty = params.frequency_penalty,
                   .repetition_penalty = params.repetition_penalty,
                   .logit_bias = params.logit_bias,
                   .allowed_token_ids = params.allowed_token_ids,
                   .banned_token_ids = request.banned_token_ids,
                   .counted_token_ids = {counted_token_ids_.data() + begin, num_counted},
                   .output_counts = {output_counts_.data() + begin, num_counted},
                   .seed = params.seed,
                   .sequence_index = request.sequence_index,
                   .position = static_cast<uint64_t>(request.position),
                   .num_top_logprobs = params.num_top_logprobs});
}

std::vector<SampledToken> Sampler::Sample(kernels::TensorView logits,
                                          std::span<const Slice> slices) {
  rows_.clear();
  counted_token_ids_.clear();
  output_counts_.clear();
  // Rows hold spans into these arrays, so they must not move while rows are appended.
  counted_token_ids_.reserve(NumTokenCounts(slices));
  output_counts_.reserve(NumTokenCounts(slices));
  for (const Slice& slice : slices) {
    if (slice.sample) AppendRow(*slice.sample);
  }
  MOED_CHECK(static_cast<int64_t>(rows_.size()) == logits.rows);
  if (rows_.empty()) return {};

  outputs_.assign(rows_.size(), {});
  backend_.Sample(
      {.logits = logits, .num_valid_tokens = num_valid_tokens_, .rows = rows_, .out = outputs_});

  std::vector<SampledToken> sampled;
  sampled.reserve(rows_.size());
  for (const Slice& slice : slices) {
    if (!slice.sample) continue;
    sampled.push_back(
        ToSampledToken(slice.sequence_id, slice.sample->params, outputs_[sampled.size()]));
  }
  return sampled;
}

}  // namespace moed
