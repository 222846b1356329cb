#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "config/model_config.h"
#include "engine/api/expert_placement.h"
#include "server/metrics/server_stats.h"
#include "server/request/request.h"
#include "server/supervisor/engine_group.h"

namespace moed {

class Tokenizer;
class MetricsSink;

struct StepLoopOptions {
  int32_t max_model_len = 0;
  int32_t max_tokens_per_step = 512;    // budget of one rank and step
  int32_t max_sequences_per_step = 64;  // of one rank
  int32_t max_waiting_requests = 256;
  int64_t max_waiting_tokens = 1 << 22;  // of their prompts
  bool prefix_caching = true;
  std::vector<int32_t> hole_token_ids;  // ids without a token: never sampled
  int32_t max_restart_attempts = 5;  // of the engine group, in a row; then the loop ends for good
  absl::Duration restart_backoff =
      absl::Milliseconds(250);  // before the second attempt; then doubled
};

/// What the loop works with; the references and `metrics` must outlive it.
struct StepLoopParts {
  const ModelConfig& model;
  const Tokenizer& tokenizer;
  ExpertPlacement placement;
  EngineGroup& engines;
  MetricsSink* metrics = nullptr;  // may be null
};

/// The thread that owns the scheduler and the KV accounting: plan -> execute -> apply, until
/// stopped.
///
/// Owned by the daemon. Submit, Cancel, stats and the drain calls may come from any thread; sinks
/// are called from the loop's own thread.
class StepLoop {
 public:
  static std::unique_ptr<StepLoop> Create(StepLoopParts parts, const StepLoopOptions& options);
  virtual ~StepLoop() = default;  // stops first

  /// Starts the thread: it starts the engine group, then serves. Ready when stats().state is
  /// kServing.
  virtual void Start() = 0;

  /// Called from the loop's thread on every change of state. Set before Start().
  virtual void SetStateCallback(std::function<void(ServingState)> callback) = 0;

  /// Queues the request, also while lost engines are being restarted. RESOURCE_EXHAUSTED when the
  /// queue is full, UNAVAILABLE while loading, draining or stopped, INVALID_ARGUMENT when it can
  /// never fit in a rank's KV blocks. After OK the sink gets events until a UsageEvent or OnError.
  virtual absl::Status Submit(Request request, std::shared_ptr<RequestSink> sink) = 0;

  /// Ends a request within one step and frees its blocks; its sink gets `reason` unless it has
  /// ended.
  virtual void Cancel(const std::string& request_id, const absl::Status& reason) = 0;

  /// No more requests are accepted from now on.
  virtual void BeginDrain() = 0;

  /// Requests accepted and not yet ended.
  virtual int32_t num_requests() const = 0;

  /// Ends what is left with `reason` and stops the thread; blocks until it is gone.
  virtual void Stop(const absl::Status& reason) = 0;

  virtual ServerStats stats() const = 0;
  /// Zeroes what GetExperts counts: tokens per expert, rows per rank, exchanged bytes.
  virtual void ResetExpertStats() = 0;

  /// OK, or why the loop ended for good (engines that cannot be started).
  virtual absl::Status fatal_status() const = 0;
};

}  // namespace moed
