#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/tokenizer/tokenizer_file.h"
#include "server/tokenizer/vocabulary.h"

namespace moed {

/// Byte-pair encoding: splits one pre-token into characters and merges neighbours, best merge
/// first, leftmost first among equals. Owned by the Tokenizer; immutable after Create.
class BpeModel {
 public:
  /// Takes the model of `file`, whose tokens must be in `vocabulary` already. `vocabulary` is only
  /// used during the call. kUnimplemented for another model type or a feature that is not known,
  /// kInvalidArgument for merges that the vocabulary does not have.
  static absl::StatusOr<BpeModel> Create(const TokenizerFile& file, const Vocabulary& vocabulary);

  /// What one call of Encode needs besides the model, reused over the pre-tokens of a text. One
  /// thread at a time.
  class Scratch;

  /// Appends the ids of `word` (valid UTF-8, not empty) to `ids`. O(n log n) in its length.
  void Encode(std::string_view word, Scratch& scratch, std::vector<int32_t>& ids) const;

  /// Control tokens are never produced from text, even where ignore_merges looks up whole words.
  void ForbidWholeWord(std::string_view piece) { whole_words_.erase(std::string(piece)); }

  /// A model without tokens; Create makes useful ones.
  BpeModel() = default;

 private:
  struct MergeRule {
    int32_t rank;
    int32_t new_id;
  };
  struct Symbol;

  absl::Status ReadOptions(const JsonReader& model, const Vocabulary& vocabulary);
  absl::Status AddMerges(const TokenizerFile& file, const Vocabulary& vocabulary);
  void AddCharacters(const TokenizerFile& file);

  std::optional<int32_t> CharacterId(std::string_view character) const;
  void SplitCharacters(std::string_view word, std::vector<Symbol>& symbols) const;
  bool AppendByteTokens(std::string_view character, std::vector<Symbol>& symbols) const;
  void MergeAll(Scratch& scratch) const;
  void MergeAt(uint64_t candidate, Scratch& scratch) const;
  bool FindCandidate(int32_t left, Scratch& scratch) const;

  absl::flat_hash_map<uint64_t, MergeRule> merges_;        // by left id << 32 | right id
  absl::flat_hash_map<char32_t, int32_t> characters_;      // tokens of one character
  std::vector<int32_t> first_characters_;                  // the same for the first 512, -1 if none
  absl::flat_hash_map<std::string, int32_t> whole_words_;  // all tokens, if ignore_merges
  std::vector<int32_t> byte_tokens_;                       // <0x00> to <0xFF>, if byte_fallback
  std::optional<int32_t> unk_id_;
  bool fuse_unk_ = false;
};

/// A token of the word, in a linked list of neighbours.
struct BpeModel::Symbol {
  int32_t id;
  int32_t previous = 0;  // index of the neighbour, -1 if none
  int32_t next = 0;
  MergeRule merge = {};  // with the next symbol; rank -1 if they do not merge
  bool merged_away = false;
};

class BpeModel::Scratch {
 private:
  friend class BpeModel;

  std::vector<Symbol> symbols_;
  /// Merges to make, the next one first: rank << 32 | index of the left symbol.
  std::vector<uint64_t> heap_;
};

}  // namespace moed
