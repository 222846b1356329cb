#include "server/step_loop.h"

#include <algorithm>
#include <functional>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "config/base/check.h"
#include "config/base/status_macros.h"
#include "config/logging.h"
#include "server/live_requests.h"
#include "server/metrics/metrics_sink.h"
#include "server/step_loop_inbox.h"

namespace moed {
namespace {

constexpr absl::Duration kMaxRestartBackoff = absl::Seconds(5);
// A Cancel that comes just before a call starts may miss it, so Stop repeats it.
constexpr absl::Duration kCancelPeriod = absl::Milliseconds(20);

// What all ranks can do together, within the configured limits.
absl::StatusOr<SchedulerOptions> MakeSchedulerOptions(const std::vector<EngineInfo>& infos,
                                                      const StepLoopOptions& options) {
  if (infos.empty()) return absl::InternalError("the engine group has no ranks");
  SchedulerOptions limits{.block_size = infos.front().block_size,
                          .max_model_len = options.max_model_len,
                          .max_tokens_per_step = options.max_tokens_per_step,
                          .max_sequences_per_step = options.max_sequences_per_step,
                          .prefix_caching = options.prefix_caching};
  for (const EngineInfo& info : infos) {
    limits.num_blocks.push_back(info.num_blocks);
    limits.max_tokens_per_step = std::min(limits.max_tokens_per_step, info.max_tokens_per_step);
    limits.max_sequences_per_step =
        std::min(limits.max_sequences_per_step, info.max_sequences_per_step);
    if (info.block_size < 1 || info.block_size != limits.block_size || info.num_blocks < 1 ||
        limits.max_tokens_per_step < 1 || limits.max_sequences_per_step < 1) {
      return absl::InternalError(absl::StrFormat(
          "rank %d reports %d KV blocks of %d tokens, at most %d tokens and %d sequences a step; "
          "expected at least 1 of each and the same block size as rank 0, %d",
          info.rank, info.num_blocks, info.block_size, info.max_tokens_per_step,
          info.max_sequences_per_step, limits.block_size));
    }
  }
  return limits;
}

// The StepLoop itself. Members without a mutex belong to thread_ once it runs.
class StepLoopThread final : public StepLoop {
 public:
  StepLoopThread(StepLoopParts parts, const StepLoopOptions& options)
      : parts_(std::move(parts)),
        options_(options),
        inbox_(std::make_shared<StepLoopInbox>(
            StepLoopInbox::Limits{.max_waiting_requests = options_.max_waiting_requests,
                                  .max_waiting_tokens = options_.max_waiting_tokens})),
        live_(parts_.tokenizer, parts_.metrics) {
    absl::MutexLock lock(&mutex_);
    stats_.placement_epoch = parts_.placement.epoch;
    stats_.tokens_per_expert.resize(num_expert_counts());
  }
  ~StepLoopThread() override { Stop(absl::UnavailableError("the server has stopped")); }

  void Start() override;
  void SetStateCallback(std::function<void(ServingState)> callback) override {
    state_callback_ = std::move(callback);
  }
  absl::Status Submit(Request request, std::shared_ptr<RequestSink> sink) override;
  void Cancel(const std::string& request_id, const absl::Status& reason) override {
    inbox_->Cancel(request_id, reason);
  }
  void BeginDrain() override { inbox_->BeginDrain(); }
  int32_t num_requests() const override { return inbox_->num_requests(); }
  void Stop(const absl::Status& reason) override;
  ServerStats stats() const override {
    absl::MutexLock lock(&mutex_);
    return stats_;
  }
  void ResetExpertStats() override {
    absl::MutexLock lock(&mutex_);
    std::ranges::fill(stats_.tokens_per_expert, 0);
    for (RankStats& rank : stats_.ranks) rank.num_expert_rows = 0;
    stats_.dispatch_bytes = 0;
    stats_.combine_bytes = 0;
  }
  absl::Status fatal_status() const override {
    absl::MutexLock lock(&mutex_);
    return fatal_status_;
  }

 private:
  void Run();
  absl::Status StartEngines();
  absl::Status StartScheduling();
  absl::Status Serve();
  void TakeIn(StepLoopInbox::Contents contents);
  absl::Status Step();
  absl::Status CheckExpertCounts(const std::vector<StepResult>& results) const;
  absl::Status Recover(const absl::Status& cause);
  absl::Duration RestartDelay(int32_t num_attempts) const;
  void End(const absl::Status& status);

  void RecordStep(StepOutcome outcome);
  void SumExpertCounts(const std::vector<StepResult>& results);
  void SetStepStarted(absl::Time started);
  void PublishLoad();
  void SetState(ServingState state);
  size_t num_expert_counts() const {
    return parts_.placement.layers.size() * static_cast<size_t>(parts_.placement.num_experts);
  }

  const StepLoopParts parts_;
  const StepLoopOptions options_;
  // Shared with the engine group's death callback, which may outlive this object.
  const std::shared_ptr<StepLoopInbox> inbox_;
  LiveRequests live_;
  std::function<void(ServingState)> state_callback_;
  bool is_draining_ = false;
  int32_t num_losses_ = 0;  // of the engine group since the last step that succeeded
  std::vector<int64_t> step_tokens_per_expert_;  // of the step being recorded
  std::thread thread_;                           // of the thread that calls Start and Stop

  mutable absl::Mutex mutex_;
  ServerStats stats_ ABSL_GUARDED_BY(mutex_);
  absl::Status fatal_status_ ABSL_GUARDED_BY(mutex_);
  bool is_over_ ABSL_GUARDED_BY(mutex_) = false;
};

void StepLoopThread::Start() {
  MOED_CHECK(!thread_.joinable());
  parts_.engines.SetDeathCallback([inbox = inbox_] { inbox->NotifyGroupLost(); });
  thread_ = std::thread([this] { Run(); });
}

absl::Status StepLoopThread::Submit(Request request, std::shared_ptr<RequestSink> sink) {
  std::optional<StepLoopInbox::Refusal> refusal =
      inbox_->Submit(std::move(request), std::move(sink));
  if (!refusal) return absl::OkStatus();
  if (parts_.metrics) parts_.metrics->OnRejected(refusal->reason);
  return std::move(refusal->status);
}

void StepLoopThread::Stop(const absl::Status& reason) {
  inbox_->RequestStop(reason);
  if (!thread_.joinable()) return;
  bool is_over = false;
  while (!is_over) {
    parts_.engines.Cancel();
    absl::MutexLock lock(&mutex_);
    is_over = mutex_.AwaitWithTimeout(absl::Condition(&is_over_), kCancelPeriod);
  }
  thread_.join();
}

void StepLoopThread::Run() {
  absl::Status status = StartEngines();
  if (status.ok()) status = Serve();
  End(status);
}

absl::Status StepLoopThread::StartEngines() {
  SetState(ServingState::kLoading);
  MOED_RETURN_IF_ERROR(parts_.engines.Start());
  return StartScheduling();
}

// Takes requests from now on. Needs a group that is up, with empty KV memory.
absl::Status StepLoopThread::StartScheduling() {
  const std::vector<EngineInfo>& infos = parts_.engines.infos();
  if (infos.size() != static_cast<size_t>(parts_.placement.num_ranks)) {
    return absl::InternalError(
        absl::StrFormat("%d engines have started, but the expert placement is for %d ranks",
                        infos.size(), parts_.placement.num_ranks));
  }
  MOED_ASSIGN_OR_RETURN(SchedulerOptions limits, MakeSchedulerOptions(infos, options_));
  limits.vocab_size = static_cast<int32_t>(parts_.model.vocab_size);
  limits.eos_token_ids = parts_.model.eos_token_ids;
  limits.hole_token_ids = options_.hole_token_ids;
  limits.placement_epoch = parts_.placement.epoch;
  inbox_->Open(limits);
  live_.StartScheduling(std::move(limits), absl::Now());
  PublishLoad();
  SetState(is_draining_ ? ServingState::kDraining : ServingState::kServing);
  return absl::OkStatus();
}

// OK when the loop was told to stop; an error when it cannot go on.
absl::Status StepLoopThread::Serve() {
  while (true) {
    StepLoopInbox::Contents contents = live_.HasWork() ? inbox_->Take() : inbox_->AwaitAndTake();
    const bool is_group_lost = contents.is_group_lost;
    TakeIn(std::move(contents));
    if (inbox_->IsStopping()) return absl::OkStatus();
    if (is_group_lost) {
      MOED_RETURN_IF_ERROR(Recover(absl::UnavailableError("an engine died")));
      continue;
    }
    live_.ExpireDeadlines(absl::Now());
    if (absl::Status status = Step(); !status.ok()) MOED_RETURN_IF_ERROR(Recover(status));
    PublishLoad();
  }
}

void StepLoopThread::TakeIn(StepLoopInbox::Contents contents) {
  const absl::Time now = absl::Now();
  for (auto& message : contents.messages) {
    if (auto* submission = std::get_if<StepLoopInbox::Submission>(&message)) {
      live_.Add(std::move(submission->request), std::move(submission->sink), now);
    } else {
      const auto& cancellation = std::get<StepLoopInbox::Cancellation>(message);
      live_.Fail(cancellation.request_id, cancellation.reason, now);
    }
  }
  if (contents.is_draining && !is_draining_) {
    is_draining_ = true;
    if (stats().state == ServingState::kServing) SetState(ServingState::kDraining);
  }
}

absl::Status StepLoopThread::Step() {
  const absl::Time plan_start = absl::Now();
  std::optional<PlannedStep> step = live_.Plan(plan_start);
  const absl::Duration plan_time = absl::Now() - plan_start;
  if (!step) return absl::OkStatus();
  PublishLoad();  // who was planned waits no longer, however long the step takes
  const absl::Time step_start = absl::Now();
  SetStepStarted(step_start);
  absl::StatusOr<std::vector<StepResult>> executed = parts_.engines.Execute(std::move(step->plans));
  const absl::Time step_end = absl::Now();
  SetStepStarted(absl::InfiniteFuture());
  MOED_ASSIGN_OR_RETURN(const std::vector<StepResult> results, std::move(executed));
  MOED_RETURN_IF_ERROR(CheckExpertCounts(results));
  const LiveRequests::StepCost cost = {
      .plan_time = plan_time, .step_time = step_end - step_start, .end = step_end};
  MOED_ASSIGN_OR_RETURN(LiveRequests::Applied applied, live_.Apply(results, cost));
  num_losses_ = 0;
  RecordStep({.num_tokens = step->num_tokens,
              .num_prefill_tokens = step->num_prefill_tokens,
              .plan_time = cost.plan_time,
              .step_time = cost.step_time,
              .inter_token_seconds = std::move(applied.inter_token_seconds),
              .results = &results});
  return absl::OkStatus();
}

absl::Status StepLoopThread::CheckExpertCounts(const std::vector<StepResult>& results) const {
  for (size_t rank = 0; rank < results.size(); ++rank) {
    if (results[rank].tokens_per_expert.size() != num_expert_counts()) {
      return absl::InternalError(
          absl::StrFormat("rank %d counted the tokens of %d experts, expected %d layers of %d",
                          rank, results[rank].tokens_per_expert.size(),
                          parts_.placement.layers.size(), parts_.placement.num_experts));
    }
  }
  return absl::OkStatus();
}

// Fails what was in flight and brings the group back. OK when it is, or when the loop is to stop.
absl::Status StepLoopThread::Recover(const absl::Status& cause) {
  if (inbox_->IsStopping()) return absl::OkStatus();
  SPDLOG_WARN("event=engine_group_lost cause=\"{}\"", cause.ToString());
  live_.StopScheduling(
      absl::UnavailableError(absl::StrCat("the engines failed: ", cause.message())), absl::Now());
  ++num_losses_;
  SetState(ServingState::kRecovering);
  absl::Status status;
  for (int32_t attempt = 0; attempt < options_.max_restart_attempts; ++attempt) {
    inbox_->Sleep(RestartDelay(attempt));
    TakeIn(inbox_->Take());  // also forgets deaths of the group that is lost already
    PublishLoad();
    if (inbox_->IsStopping()) return absl::OkStatus();
    status = parts_.engines.Restart();
    if (status.ok()) status = StartScheduling();
    if (inbox_->IsStopping()) return absl::OkStatus();
    if (status.ok()) {
      absl::MutexLock lock(&mutex_);
      ++stats_.num_group_restarts;
      return status;
    }
    SPDLOG_ERROR("event=engine_group_restart_failed attempt={} cause=\"{}\"", attempt + 1,
                 status.ToString());
  }
  return absl::UnavailableError(
      absl::StrFormat("the engines could not be restarted in %d attempts: %s",
                      options_.max_restart_attempts, status.message()));
}

// The first restart after a good step comes at once.
absl::Duration StepLoopThread::RestartDelay(int32_t num_attempts) const {
  const int32_t num_failures = num_losses_ - 1 + num_attempts;
  if (num_failures == 0) return absl::ZeroDuration();
  const int32_t num_doublings = std::min(num_failures - 1, 16);
  return std::min(options_.restart_backoff * (1 << num_doublings), kMaxRestartBackoff);
}

// `status` is why the loop cannot go on; OK when it was told to stop.
void StepLoopThread::End(const absl::Status& status) {
  const bool is_fatal = !inbox_->IsStopping();
  const absl::Status closed =
      absl::UnavailableError(is_fatal ? absl::StrCat("the engines are gone: ", status.message())
                                      : "the server has stopped");
  StepLoopInbox::Contents contents = inbox_->Close(closed);
  const absl::Status reason = is_fatal ? closed : *contents.stop_reason;
  TakeIn(std::move(contents));
  live_.FailAll(reason, absl::Now());
  PublishLoad();
  if (is_fatal) {
    SPDLOG_CRITICAL("event=step_loop_failed cause=\"{}\"", status.ToString());
    absl::MutexLock lock(&mutex_);
    fatal_status_ = status;
  }
  SetState(ServingState::kStopped);
  absl::MutexLock lock(&mutex_);
  is_over_ = true;
}

void StepLoopThread::RecordStep(StepOutcome outcome) {
  const std::vector<StepResult>& results = *outcome.results;
  SumExpertCounts(results);
  {
    absl::MutexLock lock(&mutex_);
    stats_.ranks.resize(results.size());
    for (size_t rank = 0; rank < results.size(); ++rank) {
      const StepResult& result = results[rank];
      stats_.ranks[rank].num_expert_rows += result.num_expert_rows;
      AddTimes(result.times, stats_.ranks[rank].times);
      stats_.dispatch_bytes += result.dispatch_bytes;
      stats_.combine_bytes += result.combine_bytes;
    }
    std::ranges::transform(stats_.tokens_per_expert, step_tokens_per_expert_,
                           stats_.tokens_per_expert.begin(), std::plus<int64_t>());
    live_.FillStats(stats_);
  }
  outcome.tokens_per_expert = step_tokens_per_expert_;
  if (parts_.metrics) parts_.metrics->OnStep(outcome);
}

void StepLoopThread::SumExpertCounts(const std::vector<StepResult>& results) {
  step_tokens_per_expert_.assign(num_expert_counts(), 0);
  for (const StepResult& result : results) {
    std::ranges::transform(step_tokens_per_expert_, result.tokens_per_expert,
                           step_tokens_per_expert_.begin(), std::plus<int64_t>());
  }
}

void StepLoopThread::SetStepStarted(absl::Time started) {
  absl::MutexLock lock(&mutex_);
  stats_.step_started = started;
}

void StepLoopThread::PublishLoad() {
  {
    absl::MutexLock lock(&mutex_);
    live_.FillStats(stats_);
  }
  inbox_->SetLoad(live_.num_requests(), live_.waiting_load());
}

void StepLoopThread::SetState(ServingState state) {
  {
    absl::MutexLock lock(&mutex_);
    if (stats_.state == state && state != ServingState::kLoading) return;
    stats_.state = state;
  }
  if (state_callback_) state_callback_(state);
  if (parts_.metrics) parts_.metrics->OnStateChange(state);
}

}  // namespace

std::unique_ptr<StepLoop> StepLoop::Create(StepLoopParts parts, const StepLoopOptions& options) {
  return std::make_unique<StepLoopThread>(std::move(parts), options);
}

}  // namespace moed
