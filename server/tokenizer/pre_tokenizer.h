#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "config/json_reader.h"
#include "server/tokenizer/split_behavior.h"

namespace moed {

/// A text on its way from one piece to pre-tokens, the parts that the model encodes one by one. A
/// value.
struct PreTokens {
  std::string text;             // valid UTF-8
  std::vector<TextSpan> spans;  // the pre-tokens, from left to right, none empty
  /// Whether byte 0 of `text` is the beginning of the whole input (some rules apply only there).
  bool starts_input = false;

  std::string_view Get(TextSpan span) const {
    return std::string_view(text).substr(span.begin, span.end - span.begin);
  }
};

/// Splits text into pre-tokens, and rewrites them (e.g. bytes to the byte-level alphabet). Owned
/// by the Tokenizer; immutable, so any thread may call it.
class PreTokenizer {
 public:
  /// From the "pre_tokenizer" of tokenizer.json. kUnimplemented, by name, for a type not known.
  static absl::StatusOr<std::unique_ptr<const PreTokenizer>> Create(const JsonReader& component);

  virtual ~PreTokenizer() = default;

  /// Splits each of the pre-tokens further. kResourceExhausted when a pattern takes too long.
  virtual absl::Status Apply(PreTokens& tokens) const = 0;
};

}  // namespace moed
