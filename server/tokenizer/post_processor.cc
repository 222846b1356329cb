#include "server/tokenizer/post_processor.h"

#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "config/base/status_macros.h"
#include "server/tokenizer/concat.h"

namespace moed {
namespace {

constexpr int kMaxNesting = 8;

/// Ids of a special token of a template: "special_tokens": {"<s>": {"ids": [1], ...}}.
std::vector<int64_t> SpecialTokenIds(const JsonReader& component, const std::string& name) {
  const std::optional<JsonReader> tokens = component.Object("special_tokens");
  const std::optional<JsonReader> token = tokens ? tokens->Object(name) : std::nullopt;
  if (token) return token->IntList("ids", {0, Vocabulary::kMaxIds - 1});
  component.Fail(absl::InvalidArgumentError(
      Concat({"reading tokenizer.json: TemplateProcessing lacks special token \"", name, "\""})));
  return {};
}

/// Wraps a TemplateProcessing around what `out` has already.
absl::Status AddTemplate(const JsonReader& component, PostProcessor& out) {
  PostProcessor wrapper;
  int num_sequences = 0;
  for (const JsonReader& item : component.ObjectList("single")) {
    if (item.Has("Sequence")) {
      ++num_sequences;
    } else if (const std::optional<JsonReader> token = item.Object("SpecialToken")) {
      std::vector<int32_t>& side = num_sequences == 0 ? wrapper.before : wrapper.after;
      for (const int64_t id : SpecialTokenIds(component, token->String("id"))) {
        side.push_back(static_cast<int32_t>(id));
      }
    } else {
      item.FailExpected("SpecialToken", "a SpecialToken or a Sequence");
    }
  }
  if (num_sequences != 1) component.FailExpected("single", "a template with one Sequence");
  MOED_RETURN_IF_ERROR(component.status());
  out.before.insert(out.before.begin(), wrapper.before.begin(), wrapper.before.end());
  out.after.insert(out.after.end(), wrapper.after.begin(), wrapper.after.end());
  return absl::OkStatus();
}

absl::Status AddComponent(const JsonReader& component, int depth, PostProcessor& out) {
  const std::string type = component.String("type");
  MOED_RETURN_IF_ERROR(component.status());
  if (type == "ByteLevel") return absl::OkStatus();  // only about offsets
  if (type == "TemplateProcessing") return AddTemplate(component, out);
  if (type == "Sequence" && depth <= kMaxNesting) {
    for (const JsonReader& child : component.ObjectList("processors")) {
      MOED_RETURN_IF_ERROR(AddComponent(child, depth + 1, out));
    }
    return component.status();
  }
  return absl::UnimplementedError(
      Concat({"reading tokenizer.json: post-processor ", type, " is not supported"}));
}

/// Whether the class of the tokenizer builds its own template. Only when the file says something
/// about it, so that a tokenizer.json alone is followed.
bool OverridesTemplate(const JsonReader& config) {
  const std::string tokenizer_class = config.StringOr("tokenizer_class", "");
  return (tokenizer_class == "LlamaTokenizer" || tokenizer_class == "LlamaTokenizerFast") &&
         (config.Has("add_bos_token") || config.Has("add_eos_token"));
}

/// "bos_token" and the like are a string, or an object with the string as its "content".
absl::StatusOr<int32_t> ConfiguredToken(const JsonReader& config, const char* key,
                                        const Vocabulary& vocabulary) {
  const bool is_object = config.Describe(key).starts_with("object");
  const std::string content =
      is_object ? config.Object(key)->String("content") : config.String(key);
  MOED_RETURN_IF_ERROR(config.status());
  if (const std::optional<int32_t> id = vocabulary.IdOf(content)) return *id;
  return absl::InvalidArgumentError(Concat(
      {"reading tokenizer_config.json: ", key, " is \"", content, "\", which is not a token"}));
}

absl::StatusOr<PostProcessor> FromConfig(const JsonReader& config, const Vocabulary& vocabulary) {
  PostProcessor out;
  if (config.BoolOr("add_bos_token", true)) {
    MOED_ASSIGN_OR_RETURN(const int32_t bos, ConfiguredToken(config, "bos_token", vocabulary));
    out.before.push_back(bos);
  }
  if (config.BoolOr("add_eos_token", false)) {
    MOED_ASSIGN_OR_RETURN(const int32_t eos, ConfiguredToken(config, "eos_token", vocabulary));
    out.after.push_back(eos);
  }
  MOED_RETURN_IF_ERROR(config.status());
  return out;
}

}  // namespace

absl::StatusOr<PostProcessor> PostProcessor::Create(const JsonReader* component,
                                                    const JsonReader* tokenizer_config,
                                                    const Vocabulary& vocabulary) {
  if (tokenizer_config && OverridesTemplate(*tokenizer_config)) {
    return FromConfig(*tokenizer_config, vocabulary);
  }
  PostProcessor out;
  if (component) MOED_RETURN_IF_ERROR(AddComponent(*component, 0, out));
  return out;
}

}  // namespace moed
