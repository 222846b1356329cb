#include "server/tokenizer/bpe_model.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "absl/strings/str_format.h"
#include "config/base/status_macros.h"
#include "server/tokenizer/concat.h"
#include "server/tokenizer/unicode.h"

namespace moed {
namespace {

constexpr size_t kNumFirstCharacters = 512;
constexpr int32_t kNone = -1;

uint64_t PairKey(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

absl::Status Unknown(std::string_view what) {
  return absl::UnimplementedError(Concat({"reading tokenizer.json: ", what}));
}

absl::StatusOr<int32_t> RequireId(const Vocabulary& vocabulary, std::string_view piece,
                                  std::string_view used_by) {
  const std::optional<int32_t> id = vocabulary.IdOf(piece);
  if (id) return *id;
  return absl::InvalidArgumentError(Concat({"reading tokenizer.json: ", used_by, " needs token \"",
                                            piece, "\", which model.vocab lacks"}));
}

}  // namespace

absl::StatusOr<BpeModel> BpeModel::Create(const TokenizerFile& file, const Vocabulary& vocabulary) {
  const std::optional<JsonReader> model = file.components.Object("model");
  MOED_RETURN_IF_ERROR(file.components.status());
  if (!model) return absl::InvalidArgumentError("reading tokenizer.json: it has no model");
  BpeModel bpe;
  MOED_RETURN_IF_ERROR(bpe.ReadOptions(*model, vocabulary));
  MOED_RETURN_IF_ERROR(bpe.AddMerges(file, vocabulary));
  bpe.AddCharacters(file);
  if (model->BoolOr("ignore_merges", false)) {
    for (const auto& [piece, id] : file.vocab) {
      bpe.whole_words_.emplace(piece, static_cast<int32_t>(id));
    }
  }
  MOED_RETURN_IF_ERROR(model->status());
  return bpe;
}

absl::Status BpeModel::ReadOptions(const JsonReader& model, const Vocabulary& vocabulary) {
  const std::string type = model.StringOr("type", "BPE");  // old files do not say
  if (type != "BPE") return Unknown(Concat({"model type ", type, " is not supported, only BPE"}));
  for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!model.StringOr(affix, "").empty()) {
      return Unknown(Concat({"model.", affix, " is not supported"}));
    }
  }
  if (model.NumberOr("dropout", {0, 1}, 0) != 0) return Unknown("model.dropout is not supported");
  fuse_unk_ = model.BoolOr("fuse_unk", false);
  if (model.Has("unk_token")) {
    MOED_ASSIGN_OR_RETURN(unk_id_,
                          RequireId(vocabulary, model.String("unk_token"), "model.unk_token"));
  }
  if (model.BoolOr("byte_fallback", false)) {
    byte_tokens_.assign(256, kNone);
    for (int byte = 0; byte < 256; ++byte) {
      byte_tokens_[byte] = vocabulary.IdOf(absl::StrFormat("<0x%02X>", byte)).value_or(kNone);
    }
  }
  return model.status();
}

absl::Status BpeModel::AddMerges(const TokenizerFile& file, const Vocabulary& vocabulary) {
  merges_.reserve(file.merges.size());
  for (size_t rank = 0; rank < file.merges.size(); ++rank) {
    const auto& [left, right] = file.merges[rank];
    MOED_ASSIGN_OR_RETURN(const int32_t left_id, RequireId(vocabulary, left, "model.merges"));
    MOED_ASSIGN_OR_RETURN(const int32_t right_id, RequireId(vocabulary, right, "model.merges"));
    MOED_ASSIGN_OR_RETURN(const int32_t new_id,
                          RequireId(vocabulary, left + right, "model.merges"));
    merges_[PairKey(left_id, right_id)] = {static_cast<int32_t>(rank), new_id};
  }
  return absl::OkStatus();
}

void BpeModel::AddCharacters(const TokenizerFile& file) {
  first_characters_.assign(kNumFirstCharacters, kNone);
  for (const auto& [piece, id] : file.vocab) {
    if (unicode::SequenceLength(piece[0]) != piece.size()) continue;
    size_t pos = 0;
    const char32_t c = unicode::NextCodePoint(piece, pos);
    characters_[c] = static_cast<int32_t>(id);
    if (c < kNumFirstCharacters) first_characters_[c] = static_cast<int32_t>(id);
  }
}

void BpeModel::Encode(std::string_view word, Scratch& scratch, std::vector<int32_t>& ids) const {
  if (!whole_words_.empty()) {
    const auto it = whole_words_.find(absl::string_view(word.data(), word.size()));
    if (it != whole_words_.end()) {
      ids.push_back(it->second);
      return;
    }
  }
  SplitCharacters(word, scratch.symbols_);
  MergeAll(scratch);
  for (const Symbol& symbol : scratch.symbols_) {
    if (!symbol.merged_away) ids.push_back(symbol.id);
  }
}

std::optional<int32_t> BpeModel::CharacterId(std::string_view character) const {
  size_t pos = 0;
  const char32_t c = unicode::NextCodePoint(character, pos);
  if (c < kNumFirstCharacters) {
    const int32_t id = first_characters_[c];
    return id == kNone ? std::nullopt : std::optional(id);
  }
  const auto it = characters_.find(c);
  return it == characters_.end() ? std::nullopt : std::optional(it->second);
}

bool BpeModel::AppendByteTokens(std::string_view character, std::vector<Symbol>& symbols) const {
  if (byte_tokens_.empty()) return false;
  const auto token = [&](char byte) { return byte_tokens_[static_cast<uint8_t>(byte)]; };
  for (const char byte : character) {
    if (token(byte) == kNone) return false;
  }
  for (const char byte : character) symbols.push_back({token(byte)});
  return true;
}

void BpeModel::SplitCharacters(std::string_view word, std::vector<Symbol>& symbols) const {
  symbols.clear();
  bool unk_pending = false;  // an unknown stretch waits for its end, to be fused
  const auto flush_unk = [&] {
    if (unk_pending) symbols.push_back({*unk_id_});
    unk_pending = false;
  };
  for (size_t pos = 0; pos < word.size();) {
    const std::string_view character = word.substr(pos, unicode::SequenceLength(word[pos]));
    pos += character.size();
    if (const std::optional<int32_t> id = CharacterId(character)) {
      flush_unk();
      symbols.push_back({*id});
    } else if (!AppendByteTokens(character, symbols) && unk_id_) {
      if (!fuse_unk_) flush_unk();
      unk_pending = true;
    }
  }
  flush_unk();
  const int32_t count = static_cast<int32_t>(symbols.size());
  for (int32_t i = 0; i < count; ++i) {
    symbols[i].previous = i - 1;
    symbols[i].next = i + 1 < count ? i + 1 : kNone;
  }
}

/// Looks up how `left` and its next symbol merge; appends it to the heap's vector if they do.
bool BpeModel::FindCandidate(int32_t left, Scratch& scratch) const {
  Symbol& symbol = scratch.symbols_[left];
  symbol.merge.rank = kNone;
  if (symbol.next == kNone) return false;
  const auto it = merges_.find(PairKey(symbol.id, scratch.symbols_[symbol.next].id));
  if (it == merges_.end()) return false;
  symbol.merge = it->second;
  scratch.heap_.push_back(PairKey(symbol.merge.rank, left));
  return true;
}

void BpeModel::MergeAll(Scratch& scratch) const {
  std::vector<uint64_t>& heap = scratch.heap_;
  heap.clear();
  const int32_t count = static_cast<int32_t>(scratch.symbols_.size());
  for (int32_t i = 0; i < count; ++i) FindCandidate(i, scratch);
  std::make_heap(heap.begin(), heap.end(), std::greater<>());
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    const uint64_t candidate = heap.back();
    heap.pop_back();
    MergeAt(candidate, scratch);
  }
}

void BpeModel::MergeAt(uint64_t candidate, Scratch& scratch) const {
  std::vector<Symbol>& symbols = scratch.symbols_;
  const int32_t index = static_cast<int32_t>(candidate & 0xFFFFFFFF);
  Symbol& left = symbols[index];
  const bool is_stale =
      left.merged_away || left.merge.rank != static_cast<int32_t>(candidate >> 32);
  if (is_stale) return;
  Symbol& right = symbols[left.next];
  left.id = left.merge.new_id;
  right.merged_away = true;
  left.next = right.next;
  if (left.next != kNone) symbols[left.next].previous = index;
  for (const int32_t changed : {left.previous, index}) {
    if (changed != kNone && FindCandidate(changed, scratch)) {
      std::push_heap(scratch.heap_.begin(), scratch.heap_.end(), std::greater<>());
    }
  }
}

}  // namespace moed
