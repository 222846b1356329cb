#include "client/load/prompts/prompt_file.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "config/base/status_macros.h"

namespace moed::load {
namespace {

using nlohmann::json;

constexpr int64_t kMaxTokens = 1 << 24;
constexpr int64_t kMaxPrompts = 10'000'000;

absl::Status ReadTokenIds(const json& list, FilePrompt& prompt) {
  if (!list.is_array() || list.empty() || std::ssize(list) > kMaxTokens) {
    return absl::InvalidArgumentError("token_ids is no list of token ids");
  }
  for (const json& id : list) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() > INT32_MAX) {
      return absl::InvalidArgumentError("token_ids holds something that is no token id");
    }
    prompt.token_ids.push_back(id.get<int32_t>());
  }
  return absl::OkStatus();
}

absl::Status ReadOutputTokens(const json& object, FilePrompt& prompt) {
  for (const char* key : {"output_len", "max_tokens"}) {
    const auto found = object.find(key);
    if (found == object.end()) continue;
    if (!found->is_number_integer() || found->get<int64_t>() < 1 ||
        found->get<int64_t>() > kMaxTokens) {
      return absl::InvalidArgumentError(
          absl::StrCat(key, " is ", found->dump(), ", expected 1 to ", kMaxTokens));
    }
    prompt.output_tokens = found->get<int64_t>();
  }
  return absl::OkStatus();
}

absl::StatusOr<FilePrompt> ReadPromptLine(const std::string& line) {
  const json value = json::parse(line, nullptr, /*allow_exceptions=*/false);
  FilePrompt prompt;
  if (value.is_string()) {
    prompt.text = value.get<std::string>();
  } else if (value.is_object()) {
    const auto text = value.find("prompt");
    const auto ids = value.find("token_ids");
    if (text != value.end() && text->is_string()) prompt.text = text->get<std::string>();
    if (ids != value.end()) MOED_RETURN_IF_ERROR(ReadTokenIds(*ids, prompt));
    MOED_RETURN_IF_ERROR(ReadOutputTokens(value, prompt));
  } else {
    return absl::InvalidArgumentError("expected a JSON string or object");
  }
  if (prompt.text.empty() && prompt.token_ids.empty()) {
    return absl::InvalidArgumentError("holds neither a \"prompt\" nor \"token_ids\"");
  }
  return prompt;
}

/// "human" and "user" ask, "gpt", "assistant" and the like answer; a system text is part of
/// neither.
absl::StatusOr<ShareGptConversation> ReadConversation(const json& entry) {
  const auto messages = entry.is_object() ? entry.find("conversations") : entry.end();
  if (!entry.is_object() || messages == entry.end() || !messages->is_array()) {
    return absl::InvalidArgumentError("has no list \"conversations\"");
  }
  ShareGptConversation conversation;
  std::string prompt;
  for (const json& message : *messages) {
    const auto from = message.is_object() ? message.value("from", json()) : json();
    const auto value = message.is_object() ? message.value("value", json()) : json();
    if (!from.is_string() || !value.is_string()) {
      return absl::InvalidArgumentError("holds a message without the texts \"from\" and \"value\"");
    }
    if (from == "human" || from == "user") {
      prompt = value.get<std::string>();
    } else if (from != "system" && !prompt.empty() && !value.get<std::string>().empty()) {
      conversation.push_back({std::exchange(prompt, ""), value.get<std::string>()});
    }
  }
  return conversation;
}

}  // namespace

absl::StatusOr<std::vector<FilePrompt>> ReadPromptLines(std::istream& in, const std::string& name) {
  std::vector<FilePrompt> prompts;
  std::string line;
  for (int64_t number = 1; std::getline(in, line); ++number) {
    absl::StripAsciiWhitespace(&line);
    if (line.empty()) continue;
    absl::StatusOr<FilePrompt> prompt = ReadPromptLine(line);
    if (!prompt.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ":", number, ": ", prompt.status().message()));
    }
    prompts.push_back(*std::move(prompt));
    if (std::ssize(prompts) > kMaxPrompts) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ": more than ", kMaxPrompts, " prompts"));
    }
  }
  if (in.bad()) return absl::UnavailableError(absl::StrCat("reading ", name, " failed"));
  if (prompts.empty()) return absl::InvalidArgumentError(absl::StrCat(name, ": holds no prompt"));
  return prompts;
}

absl::StatusOr<std::vector<ShareGptConversation>> ReadShareGpt(std::istream& in,
                                                               const std::string& name) {
  const json list = json::parse(in, nullptr, /*allow_exceptions=*/false);
  if (!list.is_array()) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": expected a JSON list of conversations"));
  }
  std::vector<ShareGptConversation> conversations;
  for (size_t i = 0; i < list.size(); ++i) {
    absl::StatusOr<ShareGptConversation> conversation = ReadConversation(list[i]);
    if (!conversation.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ": conversation ", i, " ", conversation.status().message()));
    }
    if (!conversation->empty()) conversations.push_back(*std::move(conversation));
  }
  if (conversations.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": holds no question with its answer"));
  }
  return conversations;
}

}  // namespace moed::load
