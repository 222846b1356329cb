#include "server/step_loop_inbox.h"

#include <utility>

#include "absl/strings/str_format.h"

namespace moed {

std::optional<StepLoopInbox::Refusal> StepLoopInbox::Submit(Request request,
                                                            std::shared_ptr<RequestSink> sink) {
  absl::MutexLock lock(&mutex_);
  if (std::optional<Refusal> refusal = Check(request)) return refusal;
  waiting_.Add(request.tenant, LoadOf(request));
  submitted_.Add(request.tenant, LoadOf(request));
  contents_.messages.emplace_back(Submission{std::move(request), std::move(sink)});
  ++num_submissions_;
  ++num_requests_;
  return std::nullopt;
}

std::optional<StepLoopInbox::Refusal> StepLoopInbox::Check(const Request& request) const {
  if (closed_) return Refusal{"stopped", *closed_};
  if (contents_.stop_reason) return Refusal{"stopped", *contents_.stop_reason};
  if (contents_.is_draining) {
    return Refusal{"draining", absl::UnavailableError("the server is draining: it finishes what it "
                                                      "has and accepts no more requests")};
  }
  if (!limits_) return Refusal{"loading", absl::UnavailableError("the model is still loading")};
  if (absl::Status fits = CheckFits(*limits_, request); !fits.ok()) {
    return Refusal{"too_long", std::move(fits)};
  }
  return CheckQueue(request);
}

std::optional<StepLoopInbox::Refusal> StepLoopInbox::CheckQueue(const Request& request) const {
  const QueueLoad& all = waiting_.all;
  const int64_t num_tokens = LoadOf(request).num_tokens;
  const int32_t num_free = queue_limits_.max_waiting_requests - all.num_requests;
  const int64_t num_free_tokens = queue_limits_.max_waiting_tokens - all.num_tokens;
  // A single request is never too much.
  if (num_free <= 0 || (num_tokens > num_free_tokens && all.num_requests > 0)) {
    return Refusal{"queue_full", absl::ResourceExhaustedError(absl::StrFormat(
                                     "%d requests with %d tokens wait already, which is the limit; "
                                     "try again later",
                                     all.num_requests, all.num_tokens))};
  }
  const QueueLoad own = waiting_.Of(request.tenant);
  if (request.tenant.empty() || own.num_requests == 0) return std::nullopt;
  if (own.num_requests < num_free && own.num_tokens + num_tokens <= num_free_tokens) {
    return std::nullopt;
  }
  return Refusal{"tenant_queue_full",
                 absl::ResourceExhaustedError(absl::StrFormat(
                     "%d requests with %d tokens of this tenant wait already, which is its share; "
                     "try again later",
                     own.num_requests, own.num_tokens))};
}

void StepLoopInbox::Cancel(std::string request_id, absl::Status reason) {
  absl::MutexLock lock(&mutex_);
  if (closed_) return;
  contents_.messages.emplace_back(Cancellation{std::move(request_id), std::move(reason)});
}

void StepLoopInbox::BeginDrain() {
  absl::MutexLock lock(&mutex_);
  if (!contents_.is_draining) has_drain_news_ = true;
  contents_.is_draining = true;
}

void StepLoopInbox::NotifyGroupLost() {
  absl::MutexLock lock(&mutex_);
  contents_.is_group_lost = true;
}

void StepLoopInbox::RequestStop(const absl::Status& reason) {
  absl::MutexLock lock(&mutex_);
  if (!contents_.stop_reason) contents_.stop_reason = reason;
}

bool StepLoopInbox::IsStopping() const {
  absl::MutexLock lock(&mutex_);
  return contents_.stop_reason.has_value();
}

int32_t StepLoopInbox::num_requests() const {
  absl::MutexLock lock(&mutex_);
  return num_requests_;
}

void StepLoopInbox::Open(SchedulerOptions limits) {
  absl::MutexLock lock(&mutex_);
  limits_ = std::move(limits);
}

StepLoopInbox::Contents StepLoopInbox::Close(const absl::Status& reason) {
  absl::MutexLock lock(&mutex_);
  closed_ = reason;
  return TakeLocked();
}

void StepLoopInbox::SetLoad(int32_t num_requests, WaitingLoad waiting) {
  absl::MutexLock lock(&mutex_);
  num_requests_ = num_requests + num_submissions_;
  waiting_ = std::move(waiting);
  waiting_.Add(submitted_);
}

StepLoopInbox::Contents StepLoopInbox::Take() {
  absl::MutexLock lock(&mutex_);
  return TakeLocked();
}

StepLoopInbox::Contents StepLoopInbox::AwaitAndTake() {
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(this, &StepLoopInbox::HasNews));
  return TakeLocked();
}

void StepLoopInbox::Sleep(absl::Duration duration) const {
  const auto is_stopping = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return contents_.stop_reason.has_value();
  };
  absl::MutexLock lock(&mutex_);
  mutex_.AwaitWithTimeout(absl::Condition(&is_stopping), duration);
}

bool StepLoopInbox::HasNews() const {
  return !contents_.messages.empty() || contents_.is_group_lost || contents_.stop_reason ||
         has_drain_news_;
}

// Draining and stopping stay set; the rest is handed out once.
StepLoopInbox::Contents StepLoopInbox::TakeLocked() {
  has_drain_news_ = false;
  num_submissions_ = 0;
  submitted_ = {};
  Contents taken = std::exchange(contents_, {});
  contents_.is_draining = taken.is_draining;
  contents_.stop_reason = taken.stop_reason;
  return taken;
}

}  // namespace moed
