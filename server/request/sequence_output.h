#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "engine/api/step.h"
#include "server/request/request.h"
#include "server/request/stop_string_matcher.h"
#include "server/tokenizer/stream_decoder.h"
#include "server/tokenizer/tokenizer.h"

namespace moed {

/// Turns the sampled tokens of one sequence into the events its client sees: text, tokens, the end.
///
/// An eos or stop id is listed among the tokens but has no text. The text of the first min_tokens
/// tokens is not searched for stop strings. With skip_text nothing is decoded, unless there are
/// stop strings to look for. Owned by an ActiveRequest; one thread at a time.
class SequenceOutput {
 public:
  struct Events {
    DeltaEvent delta;
    std::optional<FinishedEvent> finished;
  };

  /// `tokenizer` and `request` must outlive this object.
  SequenceOutput(const Tokenizer& tokenizer, const Request& request, int32_t index);

  /// Takes the next token, with the end that the scheduler saw if there is one. A stop string ends
  /// the sequence too and then takes precedence. Nothing may be appended after a FinishedEvent.
  Events Append(SampledToken token, const std::optional<SequenceEnd>& end);

  int32_t num_generated() const { return num_generated_; }

 private:
  std::string StartText();
  // Returns what may be shown of the text that `token` completes, and sets `matched`.
  std::string NextText(int32_t token_id, const std::optional<SequenceEnd>& end,
                       std::optional<std::string>& matched);

  const Tokenizer& tokenizer_;
  const Request& request_;
  const int32_t index_;
  int32_t num_generated_ = 0;
  std::optional<StreamDecoder> decoder_;  // made with the first token; never if no text is needed
  StopStringMatcher matcher_;
};

}  // namespace moed
