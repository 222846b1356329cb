#include "server/step_loop_inbox.h"

#include <utility>

#include "absl/strings/str_format.h"

namespace moed {

std::optional<StepLoopInbox::Refusal> StepLoopInbox::Submit(Request request,
                                                            std::shared_ptr<RequestSink> sink) {
  absl::MutexLock lock(&mutex_);
  if (std::optional<Refusal> refusal = Check(request)) return refusal;
  contents_.messages.emplace_back(Submission{std::move(request), std::move(sink)});
  ++num_submissions_;
  ++num_requests_;
  ++num_waiting_;
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
  if (num_waiting_ >= max_waiting_requests_) {
    return Refusal{
        "queue_full",
        absl::ResourceExhaustedError(absl::StrFormat(
            "%d requests wait already, which is the limit; try again later", num_waiting_))};
  }
  if (absl::Status fits = CheckFits(*limits_, request); !fits.ok()) {
    return Refusal{"too_long", std::move(fits)};
  }
  return std::nullopt;
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

void StepLoopInbox::SetLoad(int32_t num_requests, int32_t num_waiting) {
  absl::MutexLock lock(&mutex_);
  num_requests_ = num_requests + num_submissions_;
  num_waiting_ = num_waiting + num_submissions_;
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
  Contents taken = std::exchange(contents_, {});
  contents_.is_draining = taken.is_draining;
  contents_.stop_reason = taken.stop_reason;
  return taken;
}

}  // namespace moed
