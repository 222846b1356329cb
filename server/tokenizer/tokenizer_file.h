#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "config/json_reader.h"

namespace moed {

/// The content of a tokenizer.json, its two long lists apart from the rest. A value.
struct TokenizerFile {
  /// model.vocab, in the order of the file.
  std::vector<std::pair<std::string, int64_t>> vocab;
  /// model.merges, best first; both spellings ("a b" and ["a", "b"]) end up here.
  std::vector<std::pair<std::string, std::string>> merges;
  /// Everything else.
  JsonReader components;
};

/// Parses the text of a tokenizer.json. kInvalidArgument, with what was wrong, for malformed JSON
/// and for a vocabulary or merges of another form.
absl::StatusOr<TokenizerFile> ParseTokenizerFile(std::string_view text);

}  // namespace moed
