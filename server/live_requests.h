#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/api/step.h"
#include "server/metrics/metrics_sink.h"
#include "server/metrics/server_stats.h"
#include "server/request/active_request.h"
#include "server/scheduler/scheduler.h"

namespace moed {

/// The requests that are accepted and have not ended: joins the Scheduler, which knows ids and
/// blocks, with the ActiveRequests, which know text and sinks. Ends every request exactly once.
///
/// Owned by the StepLoop; its thread only. While there is no engine group there is no scheduler:
/// requests then wait here.
class LiveRequests {
 public:
  /// What a step gave, for metrics.
  struct Applied {
    std::vector<double>
        inter_token_seconds;  // one for each token that was not its sequence's first
  };

  /// What a step took.
  struct StepCost {
    absl::Duration plan_time;
    absl::Duration step_time;
    absl::Time end;
  };

  /// `tokenizer` and `metrics` must outlive this object; `metrics` may be null.
  LiveRequests(const Tokenizer& tokenizer, MetricsSink* metrics)
      : tokenizer_(tokenizer), metrics_(metrics) {}

  /// A new engine group is up, with empty KV memory. Everything that waits is scheduled anew; what
  /// does not fit any more is failed.
  void StartScheduling(SchedulerOptions options, absl::Time now);

  /// The engine group is lost. Fails every request of which something was scheduled; the others
  /// wait.
  void StopScheduling(const absl::Status& reason, absl::Time now);

  void Add(Request request, std::shared_ptr<RequestSink> sink, absl::Time now);
  /// Fails a request, if there still is one of that id.
  void Fail(const std::string& request_id, const absl::Status& status, absl::Time now);
  void FailAll(const absl::Status& status, absl::Time now);
  /// Fails those whose deadline has come with DEADLINE_EXCEEDED.
  void ExpireDeadlines(absl::Time now);

  /// The next step; nothing when there is nothing to run. Needs a scheduler, as does Apply.
  std::optional<PlannedStep> Plan(absl::Time now);

  /// Sends what the step's results give and ends what has ended. An error means that the results
  /// cannot be trusted: the group must be given up.
  absl::StatusOr<Applied> Apply(std::span<const StepResult> results, const StepCost& cost);

  bool HasWork() const { return scheduler_ && scheduler_->HasWork(); }
  int32_t num_requests() const { return static_cast<int32_t>(requests_.size()); }
  /// Requests of which nothing has been scheduled yet.
  WaitingLoad waiting_load() const;
  /// Sums over all steps that were applied.
  const StepTotals& totals() const { return totals_; }
  /// Fills in the counters and gauges that this object knows.
  void FillStats(ServerStats& stats) const;

 private:
  using Entry = std::unique_ptr<ActiveRequest>;

  // A request that is here no more; `active` is null if there was none.
  struct Taken {
    Entry active;
    RequestProgress progress;
  };

  void AddToTotals(std::span<const StepResult> results, const StepCost& cost);
  void EndRequests(const std::vector<SequenceOutcome>& outcomes, absl::Time now);
  void OnOutcome(SequenceOutcome& outcome, absl::Time now, Applied& applied);
  // Removes a request from the scheduler and from the map.
  Taken Take(const std::string& request_id);
  void Complete(const std::string& request_id, absl::Time now);
  void ReportEnd(const RequestOutcome& outcome);
  std::vector<std::string> IdsInOrderOfArrival() const;

  const Tokenizer& tokenizer_;
  MetricsSink* const metrics_;
  std::unique_ptr<Scheduler> scheduler_;              // null while there is no engine group
  absl::flat_hash_map<std::string, Entry> requests_;  // by id
  uint64_t last_arrival_number_ = 0;
  std::vector<std::string> untimed_ids_;  // of those that want their timing and have had no step
  StepTotals totals_;
  SchedulerCounters past_counters_;  // of the schedulers before this one
  int64_t num_prompt_tokens_ = 0;
  int64_t num_generated_tokens_ = 0;
  int64_t num_finished_requests_ = 0;
};

}  // namespace moed
