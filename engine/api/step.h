#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace moed {

/// How the next token of a sequence is chosen. Plain data; validated by the server before it gets
/// here.
struct SamplingParams {
  float temperature = 1.0f;  // 0 = greedy
  int32_t top_k = 0;         // 0 = off
  float top_p = 1.0f;        // (0, 1]
  float min_p = 0.0f;        // [0, 1)
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  float repetition_penalty = 1.0f;                    // > 0; over prompt and output tokens
  std::vector<std::pair<int32_t, float>> logit_bias;  // (token_id, added to its logit)
  std::vector<int32_t> allowed_token_ids;             // empty = all
  uint64_t seed = 0;
  int32_t num_top_logprobs = -1;  // -1 = none, 0 = the chosen token's only, N = the N best as well

  bool operator==(const SamplingParams&) const = default;
  /// True when the sampler needs SampleRequest::token_counts.
  bool UsesPenalties() const {
    return presence_penalty != 0.0f || frequency_penalty != 0.0f || repetition_penalty != 1.0f;
  }
};

/// How often a token occurs in one sequence so far.
struct TokenCount {
  int32_t token_id = 0;
  int32_t num_in_prompt = 0;
  int32_t num_in_output = 0;

  bool operator==(const TokenCount&) const = default;
};

/// Asks for one token after the last token of a slice.
struct SampleRequest {
  SamplingParams params;
  uint32_t sequence_index = 0;  // which of the request's n sequences: a part of the RNG key
  int64_t position = 0;         // position of the token to be sampled: a part of the RNG key
  std::vector<TokenCount> token_counts;   // filled only if params.UsesPenalties()
  std::vector<int32_t> banned_token_ids;  // e.g. stop ids while min_tokens is not reached

  bool operator==(const SampleRequest&) const = default;
};

/// The part of one sequence computed in a step. A prefill chunk and a decode are the same thing.
struct Slice {
  uint64_t sequence_id = 0;
  int32_t start_position = 0;           // tokens whose K and V are in the cache already
  std::vector<int32_t> token_ids;       // [num_new_tokens], num_new_tokens >= 1
  std::vector<int32_t> block_table;     // covers start_position + num_new_tokens slots
  std::optional<SampleRequest> sample;  // absent while the prompt goes on after this slice

  bool operator==(const Slice&) const = default;
};

/// What one rank does in one step. Every rank gets one for every step, even with no slices: it must
/// take part in the all-to-all.
struct StepPlan {
  uint64_t step_id = 0;
  uint64_t placement_epoch = 0;
  std::vector<int32_t>
      num_tokens_per_rank;  // [num_ranks]; the own entry equals the sum over slices
  std::vector<Slice> slices;

  bool operator==(const StepPlan&) const = default;
};

struct TokenLogprob {
  int32_t token_id = 0;
  float logprob = 0.0f;  // natural log of the softmax of the unmodified logits

  bool operator==(const TokenLogprob&) const = default;
};

struct SampledToken {
  uint64_t sequence_id = 0;
  int32_t token_id = 0;
  float logprob = 0.0f;                    // valid if num_top_logprobs >= 0
  std::vector<TokenLogprob> top_logprobs;  // descending; ties go to the lower id

  bool operator==(const SampledToken&) const = default;
};

/// Where a step's time went on one rank, in seconds.
struct StepTimes {
  double attention = 0;      // norms, QKV, RoPE, KV write, attention, output projection
  double attention_kv = 0;   // the part of attention between the projections: RoPE to attention
  double route = 0;          // router GEMM and top-k
  double dispatch = 0;       // routing metadata and rows out, waiting included
  double dispatch_wait = 0;  // the part of dispatch spent waiting for the slowest rank
  double experts = 0;        // grouped GEMMs (and dense layers, shared experts)
  double combine = 0;        // rows home and the weighted sum, waiting included
  double combine_wait = 0;
  double head = 0;  // final norm and LM head
  double sampling = 0;
  double total = 0;

  bool operator==(const StepTimes&) const = default;
};

/// What one rank did in one step.
struct StepResult {
  uint64_t step_id = 0;
  std::vector<SampledToken> sampled;  // in the order of the slices that asked for a token
  StepTimes times;
  int64_t num_expert_rows = 0;  // rows this rank's experts computed, over all layers
  int64_t dispatch_bytes = 0;   // bytes sent to other ranks
  int64_t combine_bytes = 0;
  /// [num_moe_layers * num_experts] rows this rank's own tokens sent to each logical expert.
  std::vector<int32_t> tokens_per_expert;

  bool operator==(const StepResult&) const = default;
};

}  // namespace moed
