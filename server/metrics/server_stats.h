#pragma once

#include <cstdint>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "engine/api/step.h"
#include "server/metrics/step_totals.h"

namespace moed {

enum class ServingState : uint8_t { kLoading, kServing, kDraining, kRecovering, kStopped };

constexpr absl::string_view Name(ServingState state) {
  switch (state) {
    case ServingState::kLoading:
      return "loading";
    case ServingState::kServing:
      return "serving";
    case ServingState::kDraining:
      return "draining";
    case ServingState::kRecovering:
      return "recovering";
    case ServingState::kStopped:
      return "stopped";
  }
  return "unknown";
}

struct RankStats {
  int32_t num_blocks = 0;
  int32_t num_free_blocks = 0;    // blocks no sequence refers to; some of them still hold a prefix
  int32_t num_cached_blocks = 0;  // those that do
  int32_t num_running_sequences = 0;
  int64_t num_expert_rows = 0;  // rows its experts computed since start or reset
  StepTimes times;              // its own, sums over all steps
};

/// Counters and gauges of the daemon at one moment: a value published by the step loop after every
/// step.
struct ServerStats {
  ServingState state = ServingState::kLoading;
  int32_t num_running_sequences = 0;
  int32_t num_waiting_sequences = 0;
  int32_t num_requests = 0;  // accepted and not yet ended
  int64_t num_prompt_tokens = 0;
  int64_t num_generated_tokens = 0;
  int64_t num_preemptions = 0;
  int64_t num_finished_requests = 0;
  int64_t num_group_restarts = 0;
  int64_t prefix_cache_queries = 0;  // tokens
  int64_t prefix_cache_hits = 0;     // tokens
  uint64_t placement_epoch = 0;
  StepTotals steps;
  absl::Time step_started = absl::InfiniteFuture();  // of the step being executed, if one is
  int64_t dispatch_bytes = 0;
  int64_t combine_bytes = 0;
  std::vector<RankStats> ranks;
  std::vector<int64_t> tokens_per_expert;  // [num_moe_layers * num_experts] since start or reset
};

}  // namespace moed
