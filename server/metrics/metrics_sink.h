#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "absl/time/time.h"
#include "engine/api/step.h"
#include "server/metrics/server_stats.h"

namespace moed {

/// What happened to a request that ended, for histograms and counters.
struct RequestOutcome {
  std::string_view result;  // "stop", "length", "cancelled", "deadline", "error"
  int32_t num_prompt_tokens = 0;
  int32_t num_generated_tokens = 0;
  absl::Duration queue_time;  // zero when it never ran
  absl::Duration time_to_first_token;
  absl::Duration prefill_time;
  absl::Duration decode_time;
  absl::Duration total_time;
};

/// What happened in one step.
struct StepOutcome {
  int32_t num_tokens = 0;  // over all ranks
  int32_t num_prefill_tokens = 0;
  absl::Duration plan_time;
  absl::Duration step_time;
  std::vector<double> inter_token_seconds;  // one for each token that was not its sequence's first
  const std::vector<StepResult>* results = nullptr;  // one for each rank; valid during the call
  std::span<const int64_t> tokens_per_expert;  // [num_moe_layers * num_experts] sum of the results'
};

/// Where the step loop reports what it does. Called once a step and once a request, from its
/// thread; totals and gauges are read from StepLoop::stats instead.
class MetricsSink {
 public:
  virtual ~MetricsSink() = default;
  virtual void OnStep(const StepOutcome& outcome) = 0;
  virtual void OnRequestEnd(const RequestOutcome& outcome) = 0;
  virtual void OnRejected(
      std::string_view reason) = 0;  // any thread; "queue_full", "draining", ...
  virtual void OnStateChange(ServingState state) = 0;
};

}  // namespace moed
