#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "client/load/prompts/prompt_source.h"

namespace moed::load {

/// One conversation: its turns are sent one after the other, each with all that was said before.
///
/// Owned by whoever works on it: the run between turns, the stream during one.
struct Session {
  int64_t number = 0;
  int64_t num_turns = 1;
  int64_t turn = 0;              // the next one to send
  size_t worker = 0;             // that serves it
  std::vector<int32_t> history;  // of several turns: everything said so far
  std::vector<int32_t> answer;   // of several turns: the last answer
};

/// One request that is ready to be sent.
struct StreamStart {
  std::unique_ptr<Session> session;
  Prompt prompt;
  int64_t index = 0;
  int64_t intended_ns = 0;
  int64_t eligible_ns = 0;
};

}  // namespace moed::load
