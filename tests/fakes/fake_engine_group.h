#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "server/supervisor/engine_group.h"

namespace moed {

struct FakeEngineOptions {
  int32_t num_ranks = 1;
  int32_t block_size = 4;
  int32_t num_blocks = 64;  // of each rank
  int32_t vocab_size = 100;
  int32_t max_tokens_per_step = 512;
  int32_t max_sequences_per_step = 64;
  int32_t num_moe_layers = 2;
  int32_t num_experts = 4;
};

/// The token a fake engine samples after `token_ids`: a pure function of them, of the seed and the
/// sequence index (unless greedy), of the position, and of the banned and allowed ids.
int32_t FakeSample(std::span<const int32_t> token_ids, const SampleRequest& request,
                   int32_t vocab_size);

/// An EngineGroup in process that computes nothing but checks everything.
///
/// Every KV slot remembers which token was written into it, at which position and after which other
/// tokens. A plan whose block tables would make attention read anything else than the sequence's
/// own past, that writes a block another sequence refers to, or that breaks any rule of
/// engine/api/step.h, is refused and recorded in violations().
///
/// Owned by a test. Execute, Start and Restart are called by one thread; the rest from any.
class FakeEngineGroup : public EngineGroup {
 public:
  explicit FakeEngineGroup(FakeEngineOptions options);

  absl::Status Start() override;
  const std::vector<EngineInfo>& infos() const override { return infos_; }
  absl::StatusOr<std::vector<StepResult>> Execute(std::vector<StepPlan> plans) override;
  absl::Status Restart() override;
  void SetDeathCallback(std::function<void()> callback) override;
  void Cancel() override;

  /// Execute call number `number` (the first is 1) fails with `status`, as do those after it until
  /// Restart.
  void FailAtStep(int64_t number, absl::Status status);
  /// Execute call number `number` does not return before Cancel.
  void HangAtStep(int64_t number);
  /// The next calls of Start fail with `status`.
  void FailStart(absl::Status status);
  /// The next `count` calls of Restart fail.
  void FailRestarts(int32_t count);
  /// The next Restart does not return before Cancel.
  void HangRestart();
  /// Loses the group between steps and tells it through the death callback.
  void Die();

  /// Blocks until Execute was called `number` times in all.
  void AwaitSteps(int64_t number) const;
  /// Blocks until a call hangs.
  void AwaitHang() const;

  int64_t num_steps() const;
  int32_t num_restarts() const;
  std::vector<std::string> violations() const;

 private:
  // What the K and V of one position depend on.
  struct Slot {
    bool is_written = false;
    int32_t token_id = 0;
    int32_t position = 0;
    uint64_t past = 0;  // hash of all tokens up to this one
  };
  struct Rank {
    std::vector<Slot> slots;                                   // [num_blocks * block_size]
    std::map<uint64_t, std::vector<int32_t>> known_sequences;  // id -> tokens seen so far
  };

  void ClearMemory();
  absl::Status CheckPlans(const std::vector<StepPlan>& plans) const;
  absl::Status CheckPlan(int32_t rank_index, const StepPlan& plan) const;
  absl::Status CheckBlockTable(const Slice& slice) const;
  absl::Status CheckWrites(const StepPlan& plan) const;
  absl::StatusOr<StepResult> ExecuteRank(Rank& rank, const StepPlan& plan);
  absl::StatusOr<std::vector<int32_t>> ReadPast(const Rank& rank, const Slice& slice) const;
  absl::Status CheckKnown(Rank& rank, uint64_t sequence_id, const std::vector<int32_t>& tokens);
  void Write(Rank& rank, const Slice& slice) const;
  SampledToken Sample(uint64_t sequence_id, const std::vector<int32_t>& tokens,
                      const SampleRequest& request) const;
  absl::Status WaitForCancel() ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status BeginStep() ABSL_LOCKS_EXCLUDED(mutex_);

  const FakeEngineOptions options_;
  // Of the thread that calls Execute.
  std::vector<EngineInfo> infos_;
  std::vector<Rank> ranks_;
  uint64_t last_step_id_ = 0;

  mutable absl::Mutex mutex_;
  int64_t num_steps_ ABSL_GUARDED_BY(mutex_) = 0;
  int32_t num_restarts_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t fail_at_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t hang_at_ ABSL_GUARDED_BY(mutex_) = 0;
  int32_t num_failing_restarts_ ABSL_GUARDED_BY(mutex_) = 0;
  bool hang_restart_ ABSL_GUARDED_BY(mutex_) = false;
  bool is_hanging_ ABSL_GUARDED_BY(mutex_) = false;
  bool is_cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status lost_ ABSL_GUARDED_BY(mutex_);  // why the group needs a Restart
  absl::Status step_failure_ ABSL_GUARDED_BY(mutex_);
  absl::Status start_failure_ ABSL_GUARDED_BY(mutex_);
  std::function<void()> death_callback_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> violations_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace moed
