#include "server/tokenizer/tokenizer_parts.h"

#include <optional>
#include <utility>

#include "absl/strings/string_view.h"
#include "config/base/status_macros.h"
#include "server/tokenizer/tokenizer_file.h"

namespace moed {
namespace {

absl::StatusOr<std::optional<JsonReader>> ParseConfig(std::string_view text) {
  if (text.empty()) return std::nullopt;
  MOED_ASSIGN_OR_RETURN(
      JsonReader config,
      JsonReader::Parse(absl::string_view(text.data(), text.size()), "tokenizer_config.json"));
  return config;
}

const JsonReader* OrNull(const std::optional<JsonReader>& reader) {
  return reader ? &*reader : nullptr;
}

absl::Status AddVocabulary(const TokenizerFile& file, Vocabulary& vocabulary) {
  vocabulary.Reserve(file.vocab.size());
  for (const auto& [piece, id] : file.vocab) MOED_RETURN_IF_ERROR(vocabulary.Add(piece, id));
  return absl::OkStatus();
}

/// Makes `token` known. A token that the model's vocabulary has keeps the id it has there.
absl::Status AddToken(AddedToken token, TokenizerParts& parts) {
  if (const std::optional<int32_t> id = parts.vocabulary.IdOf(token.content)) {
    token.id = *id;
  } else {
    MOED_RETURN_IF_ERROR(parts.vocabulary.Add(token.content, token.id));
  }
  const int32_t id = static_cast<int32_t>(token.id);
  if (token.special) {
    if (static_cast<size_t>(id) >= parts.is_special.size()) parts.is_special.resize(id + 1);
    parts.is_special[id] = true;
    parts.model.ForbidWholeWord(token.content);
  }
  if (!token.normalized) {
    parts.raw_tokens.Add(token, token.content);
    return absl::OkStatus();
  }
  std::string normalized = token.content;
  if (parts.normalizer) MOED_RETURN_IF_ERROR(parts.normalizer->Normalize(normalized));
  if (normalized.empty()) return absl::OkStatus();  // cannot be found in any text
  parts.normalized_tokens.Add(token, normalized);
  if (normalized != token.content) parts.normalized_spellings[id] = std::move(normalized);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<const TokenizerParts>> TokenizerParts::Create(
    std::string_view tokenizer_json, std::string_view tokenizer_config_json) {
  MOED_ASSIGN_OR_RETURN(const TokenizerFile file, ParseTokenizerFile(tokenizer_json));
  MOED_ASSIGN_OR_RETURN(const std::optional<JsonReader> config, ParseConfig(tokenizer_config_json));
  const JsonReader& root = file.components;
  const std::optional<JsonReader> normalizer = root.Object("normalizer");
  const std::optional<JsonReader> pre_tokenizer = root.Object("pre_tokenizer");
  const std::optional<JsonReader> post_processor = root.Object("post_processor");
  const std::optional<JsonReader> decoder = root.Object("decoder");
  MOED_RETURN_IF_ERROR(root.status());

  auto parts = std::make_unique<TokenizerParts>();
  MOED_RETURN_IF_ERROR(AddVocabulary(file, parts->vocabulary));
  MOED_ASSIGN_OR_RETURN(parts->model, BpeModel::Create(file, parts->vocabulary));
  if (normalizer) {
    MOED_ASSIGN_OR_RETURN(parts->normalizer, Normalizer::Create(*normalizer));
  }
  if (pre_tokenizer) {
    MOED_ASSIGN_OR_RETURN(parts->pre_tokenizer, PreTokenizer::Create(*pre_tokenizer));
  }
  MOED_ASSIGN_OR_RETURN(std::vector<AddedToken> tokens, ReadAddedTokens(root, OrNull(config)));
  for (AddedToken& token : tokens) MOED_RETURN_IF_ERROR(AddToken(std::move(token), *parts));
  MOED_ASSIGN_OR_RETURN(
      parts->post_processor,
      PostProcessor::Create(OrNull(post_processor), OrNull(config), parts->vocabulary));
  MOED_ASSIGN_OR_RETURN(parts->decoder, Decoder::Create(OrNull(decoder)));
  return parts;
}

}  // namespace moed
