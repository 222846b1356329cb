#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "server/tokenizer/added_tokens.h"
#include "server/tokenizer/bpe_model.h"
#include "server/tokenizer/decoder.h"
#include "server/tokenizer/normalizer.h"
#include "server/tokenizer/post_processor.h"
#include "server/tokenizer/pre_tokenizer.h"
#include "server/tokenizer/vocabulary.h"

namespace moed {

/// The stages of a tokenizer, in the order in which text passes them. Owned by the Tokenizer;
/// immutable after Create.
struct TokenizerParts {
  /// `tokenizer_config_json` may be empty.
  static absl::StatusOr<std::unique_ptr<const TokenizerParts>> Create(
      std::string_view tokenizer_json, std::string_view tokenizer_config_json);

  bool IsSpecial(int32_t id) const {
    return id >= 0 && static_cast<size_t>(id) < is_special.size() && is_special[id];
  }

  /// The token as the decoder takes it; empty for an id without one.
  std::string_view DecodedSpelling(int32_t id) const {
    const auto it = normalized_spellings.find(id);
    return it != normalized_spellings.end() ? it->second : vocabulary.PieceOf(id);
  }

  Vocabulary vocabulary;
  std::vector<bool> is_special;  // by id; ids beyond its end are not
  /// Added tokens that normalization changes: the decoder takes them as normalized.
  absl::flat_hash_map<int32_t, std::string> normalized_spellings;

  AddedTokenFinder raw_tokens;                        // looked for in the text as it comes
  std::unique_ptr<const Normalizer> normalizer;       // may be null
  AddedTokenFinder normalized_tokens;                 // looked for in the normalized text
  std::unique_ptr<const PreTokenizer> pre_tokenizer;  // may be null
  BpeModel model;
  PostProcessor post_processor;
  Decoder decoder;
};

}  // namespace moed
