#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/api/step.h"
#include "server/kv/kv_block_manager.h"
#include "server/request/request.h"
#include "server/request/request_progress.h"
#include "server/scheduler/scheduler_options.h"
#include "server/scheduler/sequence.h"
#include "server/scheduler/tenant.h"
#include "server/scheduler/waiting_load.h"

namespace moed {

/// One step to be executed by all ranks.
struct PlannedStep {
  std::vector<StepPlan> plans;  // [num_ranks]
  int32_t num_tokens = 0;       // over all ranks
  int32_t num_prefill_tokens =
      0;  // of those: prompt tokens, and recomputed ones after a preemption
};

/// What a step did to one sequence: it got a token, and perhaps it ended.
struct SequenceOutcome {
  const Request* request = nullptr;  // as given to Add; valid until Remove
  int32_t index = 0;
  SampledToken token;
  std::optional<SequenceEnd> end;
};

struct RankUsage {
  int32_t num_blocks = 0;
  int32_t num_free_blocks = 0;    // cached ones included
  int32_t num_cached_blocks = 0;  // of the free ones
  int32_t num_running_sequences = 0;
};

struct SchedulerCounters {
  int64_t num_preemptions = 0;
  int64_t prefix_cache_queries = 0;  // tokens looked up, once for each sequence
  int64_t prefix_cache_hits = 0;     // tokens found
};

/// Decides what every rank computes in the next step: continuous batching with chunked prefill,
/// prefix caching, preemption by recompute, priorities.
///
/// A pure class: no threads, clocks or I/O. Owned by the StepLoop, used from its thread only. Calls
/// alternate: Plan, then Apply of what the ranks answered; everything else happens between Apply
/// and the next Plan. After a step that failed the scheduler is thrown away.
///
/// Order: one total order (ServedBefore) over the sequences of a tenant. A sequence that waits is
/// admitted only when everyone before it is, so a big request is never overtaken for ever by small
/// ones. A running sequence holds the blocks of all its known tokens, so only decoding asks for
/// more; when there are none left, the last running sequence of that rank in the order is
/// preempted: it keeps its tokens, loses its blocks and waits again at its place in the order. The
/// first in the order is so never preempted for another and always makes progress.
///
/// Tenants: the next to be admitted is the first of the tenant for which the fewest tokens were
/// computed, so that each gets its share of what is computed however much another one asks for, and
/// priorities count among a tenant's own requests only. When blocks run out, the tenant whose
/// request was the last to be admitted pays, with its own last sequence.
///
/// n > 1: the first sequence runs alone until its prompt is computed; the others then find the
/// prompt's full blocks in the prefix cache, and compute at most one block's worth of it again.
class Scheduler {
 public:
  /// `options` as reported by engines and configuration; all sizes >= 1.
  explicit Scheduler(SchedulerOptions options);

  /// Queues every sequence of `request`, which must outlive its Remove. Errors: those of CheckFits;
  /// ALREADY_EXISTS for an id that is in use.
  absl::Status Add(const Request& request);

  /// Forgets the request, finished or not, and frees its blocks. Does nothing for an unknown id.
  void Remove(const std::string& request_id);

  /// Ends one sequence, e.g. because a stop string was found in its text.
  void Finish(const std::string& request_id, int32_t index);

  /// Ids of the requests whose deadline is not after `now`, finished ones excepted.
  std::vector<std::string> Expired(absl::Time now) const;

  /// The next step, or nothing when there is nothing to run.
  std::optional<PlannedStep> Plan(absl::Time now);

  /// Takes the results of the step planned last. INTERNAL when they do not fit it; the engines can
  /// then not be trusted, and the scheduler must not be used again.
  absl::StatusOr<std::vector<SequenceOutcome>> Apply(std::span<const StepResult> results);

  /// A known request's progress.
  const RequestProgress& progress(const std::string& request_id) const;

  const SchedulerOptions& options() const { return options_; }
  const SchedulerCounters& counters() const { return counters_; }
  RankUsage usage(int32_t rank) const;
  int32_t num_ranks() const { return static_cast<int32_t>(ranks_.size()); }
  bool HasWork() const;
  int32_t num_waiting_sequences() const { return tenants_.num_waiting_sequences(); }
  int32_t num_running_sequences() const;
  /// Requests of which nothing has been scheduled yet.
  WaitingLoad waiting_load() const { return tenants_.waiting_load(); }

 private:
  struct PlannedSlice {
    Sequence* sequence = nullptr;
    int32_t num_new_tokens = 0;
  };
  struct Rank {
    KvBlockManager kv;
    std::set<Sequence*, ServedBefore> running;
    std::vector<PlannedSlice> slices;  // of the step planned last
    int32_t num_tokens_left = 0;       // of this step's budget
  };
  // Where a sequence could be admitted.
  struct Admission {
    int32_t rank = 0;
    PrefixMatch match;
    int64_t cost = 0;
  };

  // The rest of a tenant's waiting sequences while some are admitted.
  struct Cursor {
    Tenant* tenant = nullptr;
    std::set<Sequence*, ServedBefore>::iterator next;
  };

  void PlanDecodes(Rank& rank);
  void PlanPrefills(Rank& rank);
  bool MakeRoom(Rank& rank, Sequence& sequence, std::vector<Sequence*>& order);
  void Preempt(Rank& rank, Sequence& sequence);
  void AdmitWaiting(absl::Time now);
  std::vector<Cursor> WaitingCursors();
  void SkipThoseThatWaitForAnother(Cursor& cursor) const;
  bool WaitsForFirstSequence(const Sequence& sequence) const;
  std::optional<Admission> ChooseRank(const Sequence& sequence) const;
  std::optional<Admission> TryRank(int32_t rank_index, const Sequence& sequence) const;
  void Admit(Sequence& sequence, const Admission& admission, absl::Time now);
  void RecordAdmission(Sequence& sequence, int32_t num_cached_tokens, absl::Time now);
  void AddSlice(Rank& rank, Sequence& sequence);
  PlannedStep BuildStep();
  Slice MakeSlice(const PlannedSlice& planned) const;
  SampleRequest MakeSampleRequest(const Sequence& sequence) const;

  absl::Status CheckResults(std::span<const StepResult> results) const;
  absl::Status CheckResult(int32_t rank_index, const StepResult& result) const;
  void ApplyComputed(Rank& rank, const PlannedSlice& planned);
  SequenceOutcome ApplyToken(Sequence& sequence, const SampledToken& token);
  std::optional<SequenceEnd> EndOf(const Sequence& sequence) const;
  void End(Sequence& sequence);
  bool UsesPrefixCache(const Sequence& sequence) const;

  SchedulerOptions options_;
  std::vector<Rank> ranks_;
  absl::flat_hash_map<std::string, std::unique_ptr<ScheduledRequest>> requests_;  // by id
  Tenants tenants_;
  SchedulerCounters counters_;
  uint64_t last_arrival_number_ = 0;
  uint64_t last_admission_number_ = 0;
  uint64_t last_sequence_id_ = 0;
  uint64_t last_step_id_ = 0;
  bool is_step_in_flight_ = false;
};

}  // namespace moed
