#include "server/request/sequence_output.h"

#include <algorithm>
#include <span>
#include <utility>

namespace moed {
namespace {

// Enough prompt tokens for the decoder to know that it is inside a text and inside a character.
constexpr size_t kContextTokens = 8;

}  // namespace

SequenceOutput::SequenceOutput(const Tokenizer& tokenizer, const Request& request, int32_t index)
    : tokenizer_(tokenizer),
      request_(request),
      index_(index),
      matcher_(request.stopping.stop, request.stopping.include_stop_string) {}

SequenceOutput::Events SequenceOutput::Append(SampledToken token,
                                              const std::optional<SequenceEnd>& end) {
  ++num_generated_;
  Events events{.delta = {.index = index_}};
  std::optional<std::string> matched;
  if (!request_.output.skip_text || !request_.stopping.stop.empty()) {
    std::string text = num_generated_ == 1 ? StartText() : std::string();
    text += NextText(token.token_id, end, matched);
    if (!request_.output.skip_text) events.delta.text = std::move(text);
  }
  events.delta.tokens.push_back({token.token_id, token.logprob, std::move(token.top_logprobs)});
  if (!matched && !end) return events;
  FinishedEvent& finished = events.finished.emplace();
  finished.index = index_;
  finished.num_generated_tokens = num_generated_;
  finished.reason = matched ? FinishReason::kStop : end->reason;
  if (matched) {
    finished.matched = *std::move(matched);
  } else if (end->stop_token_id) {
    finished.matched = *end->stop_token_id;
  }
  return events;
}

// Makes the decoder; returns the prompt's text if the client wants it back.
std::string SequenceOutput::StartText() {
  const DecodeOptions options{.skip_special_tokens = request_.output.skip_special_tokens};
  const std::span<const int32_t> prompt = request_.prompt_token_ids;
  if (!request_.output.echo) {
    decoder_.emplace(tokenizer_, options, prompt.last(std::min(prompt.size(), kContextTokens)));
    return "";
  }
  decoder_.emplace(tokenizer_, options);
  std::string text;
  for (const int32_t id : prompt) text += decoder_->Append(id);
  return text;
}

std::string SequenceOutput::NextText(int32_t token_id, const std::optional<SequenceEnd>& end,
                                     std::optional<std::string>& matched) {
  std::string text;
  if (!end || !end->stop_token_id) text = decoder_->Append(token_id);
  if (end) text += decoder_->Finish();
  if (num_generated_ <= request_.stopping.min_tokens) return text;
  StopStringMatcher::Result result = matcher_.Append(text);
  matched = std::move(result.matched);
  if (end && !matched) result.text += matcher_.Flush();
  return std::move(result.text);
}

}  // namespace moed
