#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/api/step.h"
#include "server/metrics/step_totals.h"

namespace moed {

/// When a sequence ends.
struct StoppingParams {
  int32_t max_tokens = 0;         // >= 1, already clipped to the model's context
  int32_t min_tokens = 0;         // <= max_tokens
  std::vector<std::string> stop;  // matched on text, across token borders
  std::vector<int32_t> stop_token_ids;
  bool ignore_eos = false;
  bool include_stop_string = false;
};

/// What the client wants to see.
struct OutputOptions {
  bool echo = false;
  bool return_token_ids = false;
  bool skip_text = false;
  bool skip_special_tokens = true;
  bool timing = false;  // the UsageEvent says where the time went
};

/// A Generate call after validation and tokenization. A value; nothing in it is unchecked.
struct Request {
  std::string id;                         // made by the server, unique in its life
  std::string tenant;                     // who asks; "" where nobody says who he is
  std::vector<int32_t> prompt_token_ids;  // at least 1, at most max_model_len - 1
  SamplingParams sampling;                // seed resolved
  int32_t num_sequences = 1;
  StoppingParams stopping;
  OutputOptions output;
  int32_t priority = 0;  // larger first
  std::string cache_salt;
  bool bypass_prefix_cache = false;
  absl::Time arrival;
  absl::Time deadline = absl::InfiniteFuture();
};

enum class FinishReason : uint8_t { kStop, kLength };

/// Why a sequence ends with the token it has just got.
struct SequenceEnd {
  FinishReason reason = FinishReason::kStop;
  std::optional<int32_t> stop_token_id;  // for kStop: the eos or stop id that was sampled

  bool operator==(const SequenceEnd&) const = default;
};

/// One generated token and what the client may ask to know about it.
struct GeneratedToken {
  int32_t token_id = 0;
  float logprob = 0;
  std::vector<TokenLogprob> top_logprobs;
};

/// What is new in one sequence since its last delta: at least one token.
struct DeltaEvent {
  int32_t index = 0;
  /// May lag behind the tokens, and is often empty: characters that are not complete and text that
  /// may become a stop string are held back. Valid UTF-8.
  std::string text;
  /// Every token that was sampled, whatever the client asked to see: also an eos or a stop id, and
  /// those of a stop string, none of which have text.
  std::vector<GeneratedToken> tokens;
};

struct FinishedEvent {
  int32_t index = 0;
  FinishReason reason = FinishReason::kStop;
  std::variant<std::monostate, int32_t, std::string> matched;  // stop token id or stop string
  int32_t num_generated_tokens = 0;
};

/// Where a request's time went. The steps of a part are all that passed in it, whatever else they
/// computed.
struct RequestTiming {
  absl::Duration queue_time;    // from arrival to the first step
  absl::Duration prefill_time;  // from the first step to the first token
  absl::Duration decode_time;   // from the first token to the end
  StepTotals prefill_steps;
  StepTotals decode_steps;
};

struct UsageEvent {  // always last, after a success
  int32_t num_prompt_tokens = 0;
  int32_t num_cached_tokens = 0;
  int32_t num_generated_tokens = 0;
  absl::Duration queue_time;  // from arrival to the first scheduled step
  absl::Duration time_to_first_token;
  absl::Duration total_time;
  int32_t num_preemptions = 0;
  std::shared_ptr<const RequestTiming>
      timing;  // null unless asked for; shared to keep events small
};

using RequestEvent = std::variant<DeltaEvent, FinishedEvent, UsageEvent>;

/// Takes a request's events, in order, on their way to the client.
///
/// Shared by the step loop (which calls it) and the RPC that waits for the client (which implements
/// it): the RPC may end first. Calls come from the step loop's thread and must not block.
class RequestSink {
 public:
  virtual ~RequestSink() = default;
  /// False when the client is too slow and its bound is passed: the step loop then cancels the
  /// request.
  [[nodiscard]] virtual bool OnEvent(RequestEvent event) = 0;
  /// The request ended without success; no call follows.
  virtual void OnError(const absl::Status& status) = 0;
};

}  // namespace moed
