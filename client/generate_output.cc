#include "client/generate_output.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/enum_label.h"
#include "client/message_json.h"

namespace moed {
namespace {

using Json = nlohmann::ordered_json;

/// What a delta shows: its text, or its token ids when the request asked for no text.
std::string Shown(const v1::Delta& delta) {
  if (!delta.text().empty() || delta.token_ids().empty()) return delta.text();
  return delta.token_ids_size() > 0 ? absl::StrJoin(delta.token_ids(), " ") + " " : "";
}

bool IsSequence(int index, size_t num_sequences) {
  return index >= 0 && static_cast<size_t>(index) < num_sequences;
}

}  // namespace

GenerateText::GenerateText(int num_sequences, std::function<void(const std::string&)> write)
    : write_(std::move(write)), sequences_(static_cast<size_t>(std::max(1, num_sequences))) {}

void GenerateText::Add(const v1::GenerateResponse& event) {
  if (event.has_accepted()) {
    ShowHeader();
  } else if (event.has_delta() && IsSequence(event.delta().index(), sequences_.size())) {
    sequences_[static_cast<size_t>(event.delta().index())].held_text += Shown(event.delta());
  } else if (event.has_finished() && IsSequence(event.finished().index(), sequences_.size())) {
    sequences_[static_cast<size_t>(event.finished().index())].finished = true;
  }
  ShowFromCurrent();
}

void GenerateText::ShowFromCurrent() {
  while (current_ < sequences_.size()) {
    Write(std::exchange(sequences_[current_].held_text, ""));
    if (!sequences_[current_].finished) return;
    ++current_;
    ShowHeader();
  }
}

void GenerateText::ShowHeader() {
  if (sequences_.size() == 1 || current_ >= sequences_.size()) return;
  Write(absl::StrCat(at_line_start_ ? "" : "\n", "=== sequence ", current_ + 1, " of ",
                     sequences_.size(), " ===\n"));
}

void GenerateText::Write(const std::string& text) {
  if (text.empty()) return;
  write_(text);
  at_line_start_ = text.back() == '\n';
}

void GenerateText::End() {
  if (!at_line_start_) Write("\n");
}

GenerateJson::GenerateJson(int num_sequences) {
  json_ = {{"request_id", ""}, {"seed", 0}, {"num_prompt_tokens", 0}, {"sequences", Json::array()}};
  for (int index = 0; index < std::max(1, num_sequences); ++index) {
    json_["sequences"].push_back({{"index", index},
                                  {"text", ""},
                                  {"token_ids", Json::array()},
                                  {"logprobs", Json::array()},
                                  {"finish_reason", nullptr},
                                  {"num_generated_tokens", 0}});
  }
}

void GenerateJson::Add(const v1::GenerateResponse& event) {
  if (event.has_accepted()) json_.update(ToJson(event.accepted()));
  if (event.has_delta()) AddDelta(event.delta());
  if (event.has_finished()) AddFinished(event.finished());
  if (event.has_done()) json_["usage"] = ToJson(event.done().usage());
  if (event.has_done() && event.done().has_timing()) {
    json_["timing"] = ToJson(event.done().timing());
  }
}

void GenerateJson::AddDelta(const v1::Delta& delta) {
  if (!IsSequence(delta.index(), json_["sequences"].size())) return;
  Json& sequence = json_["sequences"][static_cast<size_t>(delta.index())];
  sequence["text"].get_ref<std::string&>() += delta.text();
  for (const int32_t id : delta.token_ids()) sequence["token_ids"].push_back(id);
  for (const v1::TokenLogprobs& token : delta.logprobs()) {
    sequence["logprobs"].push_back(ToJson(token));
  }
}

void GenerateJson::AddFinished(const v1::Finished& finished) {
  if (!IsSequence(finished.index(), json_["sequences"].size())) return;
  Json& sequence = json_["sequences"][static_cast<size_t>(finished.index())];
  sequence["finish_reason"] = Label(finished.reason());
  sequence["num_generated_tokens"] = finished.num_generated_tokens();
  if (finished.has_stop_token_id()) sequence["stop_token_id"] = finished.stop_token_id();
  if (finished.has_stop_string()) sequence["stop_string"] = finished.stop_string();
}

}  // namespace moed
