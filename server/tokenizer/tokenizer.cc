#include "server/tokenizer/tokenizer.h"

#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "config/base/status_macros.h"
#include "config/text_file.h"
#include "server/tokenizer/concat.h"
#include "server/tokenizer/stream_decoder.h"
#include "server/tokenizer/tokenizer_parts.h"
#include "server/tokenizer/unicode.h"

namespace moed {
namespace {

constexpr size_t kMaxCachedWords = 1 << 16;
constexpr size_t kMaxCachedWordBytes = 256;

/// One call of Tokenizer::Encode: carries a text through the parts.
class Encoding {
 public:
  Encoding(const TokenizerParts& parts, const EncodeOptions& options)
      : parts_(parts),
        add_special_(options.add_special_tokens),
        special_(options.parse_special_tokens ? AddedTokenFinder::SpecialTokens::kFind
                                              : AddedTokenFinder::SpecialTokens::kLeaveAsText) {}

  /// `text` is valid UTF-8.
  absl::StatusOr<std::vector<int32_t>> Run(std::string_view text) {
    const PostProcessor& around = parts_.post_processor;
    if (add_special_) ids_ = around.before;
    for (const auto& piece : parts_.raw_tokens.Split(text, special_)) {
      if (piece.token_id != AddedTokenFinder::kNoToken) {
        ids_.push_back(piece.token_id);
      } else {
        MOED_RETURN_IF_ERROR(NormalizeAndEncode(piece.text, piece.text.data() - text.data()));
      }
    }
    if (add_special_) {
      ids_.insert(ids_.end(), around.after.begin(), around.after.end());
    }
    return std::move(ids_);
  }

 private:
  /// `offset` is where `text` starts in the input.
  absl::Status NormalizeAndEncode(std::string_view text, ptrdiff_t offset) {
    std::string normalized(text);
    if (parts_.normalizer) MOED_RETURN_IF_ERROR(parts_.normalizer->Normalize(normalized));
    const auto pieces = parts_.normalized_tokens.Split(normalized, special_);
    for (const auto& piece : pieces) {
      if (piece.token_id != AddedTokenFinder::kNoToken) {
        ids_.push_back(piece.token_id);
        continue;
      }
      PreTokens tokens{.text = std::string(piece.text),
                       .spans = {{0, static_cast<uint32_t>(piece.text.size())}},
                       .starts_input = offset == 0 && piece.text.data() == normalized.data()};
      if (parts_.pre_tokenizer) MOED_RETURN_IF_ERROR(parts_.pre_tokenizer->Apply(tokens));
      EncodeWords(tokens);
    }
    return absl::OkStatus();
  }

  /// Words that repeat are encoded once; the ids are copied from where they first went.
  void EncodeWords(const PreTokens& tokens) {
    absl::flat_hash_map<absl::string_view, std::pair<size_t, size_t>> known;
    for (const TextSpan span : tokens.spans) {
      const std::string_view word = tokens.Get(span);
      const absl::string_view key(word.data(), word.size());
      if (const auto it = known.find(key); it != known.end()) {
        const auto [begin, count] = it->second;
        for (size_t i = begin; i < begin + count; ++i) ids_.push_back(int32_t{ids_[i]});
        continue;
      }
      const size_t begin = ids_.size();
      parts_.model.Encode(word, scratch_, ids_);
      if (word.size() <= kMaxCachedWordBytes && known.size() < kMaxCachedWords) {
        known.emplace(key, std::pair(begin, ids_.size() - begin));
      }
    }
  }

  const TokenizerParts& parts_;
  const bool add_special_;
  const AddedTokenFinder::SpecialTokens special_;
  BpeModel::Scratch scratch_;
  std::vector<int32_t> ids_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(const std::string& model_dir) {
  MOED_ASSIGN_OR_RETURN(const std::string tokenizer_json,
                        ReadTextFile(model_dir + "/tokenizer.json"));
  absl::StatusOr<std::string> config_json = ReadTextFile(model_dir + "/tokenizer_config.json");
  if (absl::IsNotFound(config_json.status())) config_json = "";
  MOED_RETURN_IF_ERROR(config_json.status());
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = FromJson(tokenizer_json, *config_json);
  if (tokenizer.ok()) return tokenizer;
  return absl::Status(tokenizer.status().code(),
                      Concat({"loading the tokenizer of ", model_dir, ": ",
                              std::string(tokenizer.status().message())}));
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromJson(
    std::string_view tokenizer_json, std::string_view tokenizer_config_json) {
  MOED_ASSIGN_OR_RETURN(auto parts, TokenizerParts::Create(tokenizer_json, tokenizer_config_json));
  return std::unique_ptr<Tokenizer>(new Tokenizer(std::move(parts)));
}

Tokenizer::Tokenizer(std::unique_ptr<const TokenizerParts> parts) : parts_(std::move(parts)) {}

Tokenizer::~Tokenizer() = default;

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(std::string_view text,
                                                       const EncodeOptions& options) const {
  if (text.size() > kMaxTextBytes) {
    return absl::InvalidArgumentError(
        Concat({"encoding text: it has ", std::to_string(text.size()), " bytes, more than the ",
                std::to_string(kMaxTextBytes), " allowed"}));
  }
  Encoding encoding(*parts_, options);
  if (unicode::IsValidUtf8(text)) return encoding.Run(text);
  std::string valid;
  unicode::AppendLossy(text, valid);
  return encoding.Run(valid);
}

std::string Tokenizer::Decode(std::span<const int32_t> ids, const DecodeOptions& options) const {
  StreamDecoder decoder(*this, options);
  std::string text;
  for (const int32_t id : ids) text += decoder.Append(id);
  return text + decoder.Finish();
}

int32_t Tokenizer::vocab_size() const { return parts_->vocabulary.size(); }

std::string_view Tokenizer::IdToPiece(int32_t id) const { return parts_->vocabulary.PieceOf(id); }

std::optional<int32_t> Tokenizer::PieceToId(std::string_view piece) const {
  return parts_->vocabulary.IdOf(piece);
}

std::string Tokenizer::TokenBytes(int32_t id) const {
  return parts_->decoder.TokenBytes(IdToPiece(id));
}

bool Tokenizer::IsSpecial(int32_t id) const { return parts_->IsSpecial(id); }

}  // namespace moed
