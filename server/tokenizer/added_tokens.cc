#include "server/tokenizer/added_tokens.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/numbers.h"
#include "config/base/status_macros.h"
#include "server/tokenizer/concat.h"
#include "server/tokenizer/unicode.h"
#include "server/tokenizer/vocabulary.h"

namespace moed {
namespace {

constexpr size_t kMaxContentBytes = 4096;

AddedToken ReadFlags(const JsonReader& reader) {
  AddedToken token;
  token.content = reader.String("content");
  token.special = reader.BoolOr("special", false);
  token.single_word = reader.BoolOr("single_word", false);
  token.lstrip = reader.BoolOr("lstrip", false);
  token.rstrip = reader.BoolOr("rstrip", false);
  token.normalized = reader.BoolOr("normalized", !token.special);
  if (token.content.size() > kMaxContentBytes) {
    reader.FailExpected("content",
                        Concat({"at most ", std::to_string(kMaxContentBytes), " bytes"}));
  }
  return token;
}

absl::Status MergeConfigTokens(const JsonReader& decoder, std::vector<AddedToken>& tokens) {
  for (const std::string& key : decoder.Keys()) {
    const std::optional<JsonReader> entry = decoder.Object(key);
    MOED_RETURN_IF_ERROR(decoder.status());
    AddedToken token = ReadFlags(*entry);
    if (!absl::SimpleAtoi(key, &token.id)) decoder.FailExpected(key, "a token id as its key");
    MOED_RETURN_IF_ERROR(decoder.status());
    const auto same = std::find_if(tokens.begin(), tokens.end(), [&](const AddedToken& other) {
      return other.content == token.content;
    });
    if (same == tokens.end()) {
      tokens.push_back(std::move(token));
    } else {
      token.id = same->id;
      *same = std::move(token);
    }
  }
  return decoder.status();
}

bool EndsWithWord(std::string_view text) {
  size_t pos = text.size();
  return pos > 0 && unicode::IsWord(unicode::PreviousCodePoint(text, pos));
}

bool StartsWithWord(std::string_view text) {
  size_t pos = 0;
  return !text.empty() && unicode::IsWord(unicode::NextCodePoint(text, pos));
}

/// Where the whitespace that ends at `end` starts, but not before `floor`.
size_t WhitespaceStart(std::string_view text, size_t floor, size_t end) {
  size_t start = end;
  for (size_t pos = end; pos > floor; start = pos) {
    if (!unicode::IsWhitespace(unicode::PreviousCodePoint(text, pos))) break;
  }
  return std::max(start, floor);
}

/// Where the whitespace that starts at `begin` ends.
size_t WhitespaceEnd(std::string_view text, size_t begin) {
  size_t end = begin;
  for (size_t pos = begin; pos < text.size(); end = pos) {
    if (!unicode::IsWhitespace(unicode::NextCodePoint(text, pos))) break;
  }
  return end;
}

}  // namespace

absl::StatusOr<std::vector<AddedToken>> ReadAddedTokens(const JsonReader& tokenizer,
                                                        const JsonReader* tokenizer_config) {
  std::vector<AddedToken> tokens;
  for (const JsonReader& entry : tokenizer.ObjectList("added_tokens")) {
    AddedToken token = ReadFlags(entry);
    token.id = entry.Int("id", {0, Vocabulary::kMaxIds - 1});
    tokens.push_back(std::move(token));
  }
  MOED_RETURN_IF_ERROR(tokenizer.status());
  if (tokenizer_config) {
    if (const auto decoder = tokenizer_config->Object("added_tokens_decoder")) {
      MOED_RETURN_IF_ERROR(MergeConfigTokens(*decoder, tokens));
    }
    MOED_RETURN_IF_ERROR(tokenizer_config->status());
  }
  std::erase_if(tokens, [](const AddedToken& token) { return token.content.empty(); });
  return tokens;
}

void AddedTokenFinder::Add(const AddedToken& token, std::string_view pattern) {
  uint32_t node = 0;
  for (const char byte : pattern) {
    const uint64_t key = uint64_t{node} << 8 | static_cast<uint8_t>(byte);
    const auto [it, is_new] = edges_.emplace(key, static_cast<uint32_t>(entry_of_node_.size()));
    if (is_new) entry_of_node_.push_back(kNoToken);
    node = it->second;
  }
  entry_of_node_[node] = static_cast<int32_t>(entries_.size());
  entries_.push_back({static_cast<int32_t>(token.id), token.single_word, token.lstrip, token.rstrip,
                      token.special});
}

AddedTokenFinder::Match AddedTokenFinder::LongestAt(std::string_view text, size_t begin) const {
  Match match{begin, begin, nullptr};
  uint32_t node = 0;
  for (size_t pos = begin; pos < text.size(); ++pos) {
    const auto it = edges_.find(uint64_t{node} << 8 | static_cast<uint8_t>(text[pos]));
    if (it == edges_.end()) break;
    node = it->second;
    if (entry_of_node_[node] != kNoToken) {
      match.end = pos + 1;
      match.entry = &entries_[entry_of_node_[node]];
    }
  }
  return match;
}

std::vector<AddedTokenFinder::Piece> AddedTokenFinder::Split(std::string_view text,
                                                             SpecialTokens special) const {
  std::vector<Piece> pieces;
  size_t text_begin = 0;      // of the text since the last token
  size_t whitespace_end = 0;  // of the last whitespace that a token took after it
  for (size_t pos = 0; pos < text.size() && !entries_.empty();) {
    Match match = LongestAt(text, pos);
    if (!match.entry) {
      ++pos;
      continue;
    }
    pos = match.end;  // the search goes on here, whether the match counts or not
    const Entry& entry = *match.entry;
    if (entry.special && special == SpecialTokens::kLeaveAsText) continue;
    if (entry.single_word &&
        (EndsWithWord(text.substr(0, match.begin)) || StartsWithWord(text.substr(match.end)))) {
      continue;
    }
    if (entry.lstrip) match.begin = WhitespaceStart(text, text_begin, match.begin);
    if (entry.rstrip) {
      // Whitespace of an earlier scan is not scanned again.
      if (match.end > whitespace_end) whitespace_end = WhitespaceEnd(text, match.end);
      match.end = whitespace_end;
    }
    if (text_begin < match.begin) {
      pieces.push_back({text.substr(text_begin, match.begin - text_begin), kNoToken});
    }
    pieces.push_back({{}, entry.id});
    text_begin = match.end;
  }
  if (text_begin < text.size()) pieces.push_back({text.substr(text_begin), kNoToken});
  return pieces;
}

}  // namespace moed
