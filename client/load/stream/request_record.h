#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace moed::load {

enum class RequestOutcome : uint8_t {
  kCompleted,
  kCancelled,  // by this client, as planned
  kDeadline,   // the deadline that this client set has passed
  kFailed,
  kUnfinished,  // the run ended first
};

/// What happened to one request. Times are nanoseconds since the start of the run; 0 when the event
/// did not happen.
struct RequestRecord {
  int64_t index = 0;
  int64_t intended_ns = 0;  // when it was to be sent: latencies count from here
  int64_t eligible_ns = 0;  // when nothing but this client's slowness kept it from being sent
  int64_t sent_ns = 0;
  int64_t first_token_ns = 0;
  int64_t last_token_ns = 0;
  int64_t end_ns = 0;
  int32_t num_prompt_tokens = 0;
  int32_t num_cached_tokens = 0;
  int32_t num_output_tokens = 0;
  int32_t prompt_id = -1;
  int32_t turn = 0;
  int32_t error = -1;       // an index in RunRecording::errors
  float queue_s = 0;        // as the server tells: from acceptance to the first step
  float server_ttft_s = 0;  // as the server tells
  RequestOutcome outcome = RequestOutcome::kFailed;
  bool slow_reader = false;  // its latencies say nothing about the server
  uint64_t token_hash = 0;   // of the answer's token ids, when the run asks for them
};

/// What --save-detailed adds to a record.
struct RequestDetail {
  std::string text;
  std::vector<float> inter_token_s;
};

}  // namespace moed::load
