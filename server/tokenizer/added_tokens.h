#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "config/json_reader.h"
#include "server/tokenizer/normalizer.h"

namespace moed {

/// A token that is found in the text itself, before the model sees it. A value.
struct AddedToken {
  int64_t id = 0;
  std::string content;
  bool single_word = false;  // only where no word character is next to it
  bool lstrip = false;       // takes the whitespace before it
  bool rstrip = false;       // takes the whitespace after it
  bool normalized = false;   // looked for, itself normalized, in the normalized text
  bool special = false;      // a control token
};

/// Reads the "added_tokens" of tokenizer.json; tokens of tokenizer_config.json's
/// "added_tokens_decoder" (may be absent) are added, or replace those with the same content.
absl::StatusOr<std::vector<AddedToken>> ReadAddedTokens(const JsonReader& tokenizer,
                                                        const JsonReader* tokenizer_config);

/// Finds a set of added tokens in texts: leftmost first, longest among those, in time linear in
/// the text. Owned by the Tokenizer; immutable after the last Add.
class AddedTokenFinder {
 public:
  static constexpr int32_t kNoToken = -1;

  /// An added token (`text` is empty), or the text between two (`token_id` is kNoToken).
  struct Piece {
    std::string_view text;
    int32_t token_id;
  };

  /// What to do with control tokens in the text.
  enum class SpecialTokens { kFind, kLeaveAsText };

  /// `pattern` is the spelling to look for: token.content or its normalized form. Not empty.
  void Add(const AddedToken& token, std::string_view pattern);

  /// Cuts `text` (valid UTF-8) into its tokens and the text between them, which is never empty.
  std::vector<Piece> Split(std::string_view text, SpecialTokens special) const;

 private:
  struct Entry {
    int32_t id;
    bool single_word;
    bool lstrip;
    bool rstrip;
    bool special;
  };
  struct Match {
    size_t begin;
    size_t end;
    const Entry* entry;
  };

  /// The longest pattern that starts at `begin`, if any (`entry` is null otherwise).
  Match LongestAt(std::string_view text, size_t begin) const;

  // A trie over bytes: (node << 8 | byte) -> node. Node 0 is the root.
  absl::flat_hash_map<uint64_t, uint32_t> edges_;
  std::vector<int32_t> entry_of_node_ = {kNoToken};
  std::vector<Entry> entries_;
};

}  // namespace moed
