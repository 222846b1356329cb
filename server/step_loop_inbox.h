#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/request/request.h"
#include "server/scheduler/scheduler_options.h"
#include "server/scheduler/waiting_load.h"

namespace moed {

/// What other threads want of the step loop: its one queue, and the door that refuses requests.
///
/// Shared by the StepLoop and the engine group's death callback, which may come late. The loop's
/// own thread calls Open, Close, SetLoad, Take, AwaitAndTake and Sleep; any thread calls the rest.
class StepLoopInbox {
 public:
  struct Submission {
    Request request;
    std::shared_ptr<RequestSink> sink;
  };
  struct Cancellation {
    std::string request_id;
    absl::Status reason;
  };
  /// Everything that has come since the last look.
  struct Contents {
    std::vector<std::variant<Submission, Cancellation>> messages;  // in order
    bool is_group_lost = false;
    bool is_draining = false;
    std::optional<absl::Status> stop_reason;
  };
  struct Refusal {
    std::string_view reason;  // for metrics, e.g. "queue_full"
    absl::Status status;
  };

  /// Of the requests that wait. A tenant that has a name may hold as much of it as the others
  /// leave free: half of it when it is alone, and a newcomer always finds room.
  struct Limits {
    int32_t max_waiting_requests = 256;
    int64_t max_waiting_tokens = 1 << 22;  // of prompts
  };

  explicit StepLoopInbox(const Limits& limits) : queue_limits_(limits) {}

  /// Queues a request, or says why not.
  std::optional<Refusal> Submit(Request request, std::shared_ptr<RequestSink> sink);
  void Cancel(std::string request_id, absl::Status reason);
  void BeginDrain();
  void NotifyGroupLost();
  void RequestStop(const absl::Status& reason);
  bool IsStopping() const;
  /// Requests accepted and not yet ended.
  int32_t num_requests() const;

  /// From now on requests are accepted that fit `limits`.
  void Open(SchedulerOptions limits);
  /// From now on every request is refused with `reason`. Returns what is left.
  Contents Close(const absl::Status& reason);
  /// Tells how many requests the loop holds, and what of them only waits.
  void SetLoad(int32_t num_requests, WaitingLoad waiting);
  /// Takes everything that has come.
  Contents Take();
  /// The same, after blocking until there is something.
  Contents AwaitAndTake();
  /// Blocks for `duration`, or until the loop is to stop.
  void Sleep(absl::Duration duration) const;

 private:
  bool HasNews() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Contents TakeLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::optional<Refusal> Check(const Request& request) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::optional<Refusal> CheckQueue(const Request& request) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Limits queue_limits_;
  mutable absl::Mutex mutex_;
  Contents contents_ ABSL_GUARDED_BY(mutex_);
  bool has_drain_news_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<SchedulerOptions> limits_ ABSL_GUARDED_BY(mutex_);  // absent while loading
  std::optional<absl::Status> closed_ ABSL_GUARDED_BY(mutex_);
  int32_t num_submissions_ ABSL_GUARDED_BY(mutex_) = 0;  // among the messages
  int32_t num_requests_ ABSL_GUARDED_BY(mutex_) = 0;     // submissions included
  WaitingLoad waiting_ ABSL_GUARDED_BY(mutex_);          // submissions included
  WaitingLoad submitted_ ABSL_GUARDED_BY(mutex_);        // of the submissions among the messages
};

}  // namespace moed
