#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "server/step_loop.h"

namespace moed {

/// A step loop whose events the test writes. Every call may come from any thread.
class FakeStepLoop final : public StepLoop {
 public:
  struct Submitted {
    Request request;
    std::shared_ptr<RequestSink> sink;
  };

  void Start() override {}
  void SetStateCallback(std::function<void(ServingState)>) override {}

  absl::Status Submit(Request request, std::shared_ptr<RequestSink> sink) override {
    absl::MutexLock lock(&mutex_);
    if (!refusal_.ok()) return refusal_;
    submitted_.push_back({std::move(request), std::move(sink)});
    ++num_requests_;
    return absl::OkStatus();
  }

  void Cancel(const std::string& request_id, const absl::Status& reason) override {
    absl::MutexLock lock(&mutex_);
    cancelled_.emplace_back(request_id, reason);
  }

  void BeginDrain() override {
    absl::MutexLock lock(&mutex_);
    draining_ = true;
  }

  int32_t num_requests() const override {
    absl::MutexLock lock(&mutex_);
    return num_requests_;
  }

  void Stop(const absl::Status&) override {}

  ServerStats stats() const override {
    absl::MutexLock lock(&mutex_);
    return stats_;
  }

  void ResetExpertStats() override {
    absl::MutexLock lock(&mutex_);
    stats_.tokens_per_expert.clear();
  }

  absl::Status fatal_status() const override { return absl::OkStatus(); }

  // For the test.

  /// What Submit returns from now on.
  void SetRefusal(absl::Status status) {
    absl::MutexLock lock(&mutex_);
    refusal_ = std::move(status);
  }
  void SetStats(ServerStats stats) {
    absl::MutexLock lock(&mutex_);
    stats_ = std::move(stats);
  }
  void SetNumRequests(int32_t num_requests) {
    absl::MutexLock lock(&mutex_);
    num_requests_ = num_requests;
  }
  /// Waits for the i-th request.
  Submitted WaitForRequest(size_t i) {
    absl::MutexLock lock(&mutex_);
    auto there = [this, i]()
                     ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return submitted_.size() > i; };
    mutex_.Await(absl::Condition(&there));
    return submitted_[i];
  }
  /// Waits for the i-th cancellation: the request's id and why.
  std::pair<std::string, absl::Status> WaitForCancel(size_t i) {
    absl::MutexLock lock(&mutex_);
    auto there = [this, i]()
                     ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return cancelled_.size() > i; };
    mutex_.Await(absl::Condition(&there));
    return cancelled_[i];
  }
  size_t num_submitted() const {
    absl::MutexLock lock(&mutex_);
    return submitted_.size();
  }
  size_t num_cancelled() const {
    absl::MutexLock lock(&mutex_);
    return cancelled_.size();
  }
  bool draining() const {
    absl::MutexLock lock(&mutex_);
    return draining_;
  }
  /// Lets go of all sinks, as a loop does with requests that ended.
  void ForgetRequests() {
    std::vector<Submitted> dropped;
    absl::MutexLock lock(&mutex_);
    dropped.swap(submitted_);
  }

 private:
  mutable absl::Mutex mutex_;
  absl::Status refusal_ ABSL_GUARDED_BY(mutex_);
  std::vector<Submitted> submitted_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::pair<std::string, absl::Status>> cancelled_ ABSL_GUARDED_BY(mutex_);
  int32_t num_requests_ ABSL_GUARDED_BY(mutex_) = 0;
  ServerStats stats_ ABSL_GUARDED_BY(mutex_);
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace moed
