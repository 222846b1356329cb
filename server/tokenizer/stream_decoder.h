#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "server/tokenizer/tokenizer.h"

namespace moed {

class DecodeStream;

/// Turns the ids of one sequence into text as they arrive. The pieces that it returns, put
/// together, equal Tokenizer::Decode of all the ids. Owned by whoever streams that sequence; one
/// thread at a time.
class StreamDecoder {
 public:
  /// Starts at the beginning of a text. `tokenizer` must outlive this object.
  explicit StreamDecoder(const Tokenizer& tokenizer, const DecodeOptions& options = {});

  /// Starts after `context`, the ids before the first streamed one (all of a prompt, or its last
  /// few). Their text is not returned, but rules about the beginning of a text then apply to it
  /// and not to the first streamed token, which so keeps its leading space. A character that
  /// `context` leaves unfinished is returned whole when a later id completes it.
  StreamDecoder(const Tokenizer& tokenizer, const DecodeOptions& options,
                std::span<const int32_t> context);

  StreamDecoder(StreamDecoder&&) noexcept;
  StreamDecoder& operator=(StreamDecoder&&) noexcept;
  ~StreamDecoder();

  /// Adds one id; returns the text that no later id can change, always valid UTF-8, often empty
  /// while a character is unfinished. Constant amortised time.
  std::string Append(int32_t id);

  /// Ends the text: returns what was held back, with U+FFFD for bytes that never became a
  /// character. Nothing may be appended afterwards.
  std::string Finish();

 private:
  const TokenizerParts* parts_;
  DecodeOptions options_;
  std::unique_ptr<DecodeStream> stream_;
};

}  // namespace moed
