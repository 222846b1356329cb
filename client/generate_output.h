#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "moed/v1/inference.pb.h"

namespace moed {

/// Prints the text of a Generate stream as it comes. Of several sequences the first one streams;
/// the next is held back until those before it have ended, and each starts with a header. Used by
/// one thread.
class GenerateText {
 public:
  /// `write` gets pieces of text to be shown at once.
  GenerateText(int num_sequences, std::function<void(const std::string&)> write);

  void Add(const v1::GenerateResponse& event);

  /// Ends the last line; call it once, also after an error.
  void End();

 private:
  struct Sequence {
    std::string held_text;  // not yet shown
    bool finished = false;
  };

  void ShowFromCurrent();
  void ShowHeader();
  void Write(const std::string& text);

  const std::function<void(const std::string&)> write_;
  std::vector<Sequence> sequences_;
  size_t current_ = 0;  // the one that streams
  bool at_line_start_ = true;
};

/// Collects a Generate stream into one JSON object: request_id, seed, num_prompt_tokens, sequences
/// (index, text, token_ids, logprobs, finish_reason, what matched), usage. Used by one thread.
class GenerateJson {
 public:
  explicit GenerateJson(int num_sequences);

  void Add(const v1::GenerateResponse& event);
  const nlohmann::ordered_json& json() const { return json_; }

 private:
  void AddDelta(const v1::Delta& delta);
  void AddFinished(const v1::Finished& finished);

  nlohmann::ordered_json json_;
};

}  // namespace moed
