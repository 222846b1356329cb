#include "client/load/prompts/prompt_source.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "config/base/check.h"

namespace moed::load {
namespace {

// What a Random's seed is mixed with, so that its streams differ between uses.
constexpr uint64_t kPrefixStream = 0x70726566;
constexpr uint64_t kBlockStream = 0x626c6f63;
constexpr uint64_t kShuffleStream = 0x73687566;

uint64_t StreamOf(const PromptRequest& request) { return static_cast<uint64_t>(request.index); }

void AppendRandom(const TokenRange& tokens, int64_t count, Random& random,
                  std::vector<int32_t>& out) {
  for (int64_t i = 0; i < count; ++i) out.push_back(tokens.Draw(random));
}

}  // namespace

int32_t TokenRange::Draw(Random& random) const {
  // A vocabulary of nothing but excluded ids is the server's business to refuse.
  for (int attempt = 0; attempt < 64; ++attempt) {
    const auto id = static_cast<int32_t>(random.Below(static_cast<uint64_t>(vocab_size)));
    if (std::find(excluded.begin(), excluded.end(), id) == excluded.end()) return id;
  }
  return 0;
}

RandomPrompts::RandomPrompts(Params params) : params_(std::move(params)) {
  double sum = 0;
  for (int64_t family = 0; family < params_.num_families; ++family) {
    sum += std::pow(static_cast<double>(family + 1), -params_.family_skew);
    family_bounds_.push_back(sum);
  }
  for (double& bound : family_bounds_) bound /= sum;
}

int64_t RandomPrompts::DrawFamily(Random& random) const {
  const auto found =
      std::upper_bound(family_bounds_.begin(), family_bounds_.end(), random.Uniform());
  return std::min(found - family_bounds_.begin(), std::ssize(family_bounds_) - 1);
}

Prompt RandomPrompts::Make(const PromptRequest& request) const {
  Random random(params_.lengths.seed, StreamOf(request));
  Prompt prompt;
  if (params_.num_families > 0 && request.turn == 0) {
    const auto family = static_cast<uint64_t>(DrawFamily(random));
    Random of_family(params_.lengths.seed ^ kPrefixStream, family);
    AppendRandom(params_.tokens, params_.prefix_tokens, of_family, prompt.token_ids);
  }
  const int64_t length = params_.lengths.input.SampleInteger(random);
  prompt.max_tokens = params_.lengths.output.SampleInteger(random);
  AppendRandom(params_.tokens, length, random, prompt.token_ids);
  return prompt;
}

PooledPrompts::PooledPrompts(std::vector<Conversation> pool, LengthParams lengths)
    : pool_(std::move(pool)), lengths_(lengths) {
  MOED_CHECK(!pool_.empty());
  Random random(lengths_.seed, kShuffleStream);
  std::shuffle(pool_.begin(), pool_.end(), random);
}

Prompt PooledPrompts::Make(const PromptRequest& request) const {
  const auto session = static_cast<size_t>(request.session);
  const auto number = static_cast<size_t>(request.turn);
  const Conversation& own = pool_[session % pool_.size()];
  // A conversation that is over goes on with the beginnings of the next ones.
  const Turn& turn =
      number < own.size() ? own[number] : pool_[(session + number) % pool_.size()].front();
  Random random(lengths_.seed, StreamOf(request));
  return {.token_ids = turn.token_ids,
          .text = turn.text,
          .max_tokens =
              turn.output_tokens > 0 ? turn.output_tokens : lengths_.output.SampleInteger(random)};
}

TextPrompts::TextPrompts(const std::vector<std::vector<int32_t>>& lines, LengthParams lengths)
    : lengths_(lengths) {
  for (const std::vector<int32_t>& line : lines) {
    if (line.empty()) continue;
    line_starts_.push_back(token_ids_.size());
    token_ids_.insert(token_ids_.end(), line.begin(), line.end());
  }
  MOED_CHECK(!token_ids_.empty());
}

Prompt TextPrompts::Make(const PromptRequest& request) const {
  Random random(lengths_.seed, StreamOf(request));
  Prompt prompt;
  const int64_t length = lengths_.input.SampleInteger(random);
  prompt.max_tokens = lengths_.output.SampleInteger(random);
  size_t at = line_starts_[random.Below(line_starts_.size())];
  for (int64_t i = 0; i < length; ++i, at = (at + 1) % token_ids_.size()) {
    prompt.token_ids.push_back(token_ids_[at]);
  }
  return prompt;
}

TracePrompts::TracePrompts(TokenRange tokens, std::vector<TraceRequest> requests, uint64_t seed)
    : tokens_(std::move(tokens)), requests_(std::move(requests)), seed_(seed) {
  MOED_CHECK(!requests_.empty());
}

Prompt TracePrompts::Make(const PromptRequest& request) const {
  const TraceRequest& recorded = requests_[StreamOf(request) % requests_.size()];
  Prompt prompt{.max_tokens = recorded.num_output_tokens};
  for (const int64_t hash : recorded.block_hashes) {
    Random of_block(seed_ ^ kBlockStream, static_cast<uint64_t>(hash));
    const int64_t left = recorded.num_prompt_tokens - std::ssize(prompt.token_ids);
    AppendRandom(tokens_, std::min(left, kTraceBlockTokens), of_block, prompt.token_ids);
  }
  Random random(seed_, StreamOf(request));
  const int64_t left = recorded.num_prompt_tokens - std::ssize(prompt.token_ids);
  AppendRandom(tokens_, left, random, prompt.token_ids);
  return prompt;
}

Prompt RepeatedPrompts::Make(const PromptRequest& request) const {
  PromptRequest repeated = request;
  repeated.index = request.index % num_prompts_;
  repeated.session = repeated.index;
  Prompt prompt = source_->Make(repeated);
  prompt.id = static_cast<int32_t>(repeated.index);
  return prompt;
}

}  // namespace moed::load
