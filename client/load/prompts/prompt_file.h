#pragma once

#include <cstdint>
#include <istream>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace moed::load {

/// A prompt as it stands in a file of JSON lines.
struct FilePrompt {
  std::string text;
  std::vector<int32_t> token_ids;  // instead of the text
  int64_t output_tokens = 0;       // 0 when the file does not say
};

/// JSON lines, each a string or an object with "prompt" (text) or "token_ids", and optionally
/// "output_len" (or "max_tokens"). INVALID_ARGUMENT names the line, as "NAME:LINE: ...".
absl::StatusOr<std::vector<FilePrompt>> ReadPromptLines(std::istream& in, const std::string& name);

/// What a person said and what the model answered.
struct ShareGptTurn {
  std::string prompt;
  std::string answer;
};
using ShareGptConversation = std::vector<ShareGptTurn>;

/// The ShareGPT file: a list of {"conversations": [{"from": ..., "value": ...}, ...]}. Turns
/// without an answer, and conversations without turns, are left out. INVALID_ARGUMENT names the
/// conversation.
absl::StatusOr<std::vector<ShareGptConversation>> ReadShareGpt(std::istream& in,
                                                               const std::string& name);

}  // namespace moed::load
