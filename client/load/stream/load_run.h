#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <queue>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "client/connection.h"
#include "client/load/prompts/prompt_source.h"
#include "client/load/schedule/arrivals.h"
#include "client/load/schedule/distribution.h"
#include "client/load/stream/run_clock.h"
#include "client/load/stream/run_recording.h"
#include "client/load/stream/session.h"
#include "client/load/stream/stream_worker.h"

namespace moed::load {

/// When requests are sent, and for how long.
struct RunPlan {
  /// When conversations begin (open loop), or slots of a closed loop.
  std::unique_ptr<ArrivalSource> arrivals;
  /// Set for a closed loop: how many slots there are. A slot sends its next request when the last
  /// one is over.
  std::optional<RateSchedule> slots;
  Distribution turns = Distribution::Always(1);
  Distribution think_s = Distribution::Always(0);  // between the turns of a conversation
  int64_t max_requests = 0;                        // 0 = no limit
  double duration_s = 0;                           // nothing is sent after it; 0 = no limit
  int64_t max_concurrency = 0;                     // of an open loop: others wait; 0 = no limit
  double drain_timeout_s = 60;                     // for the answers, after the last request
  int64_t max_model_len = 0;                       // longer prompts are cut; 0 = no limit
  uint64_t seed = 0;
  RunRecording::Params recording;
};

struct RunResult {
  explicit RunResult(RunRecording::Params params) : recording(params) {}

  RunRecording recording;
  double seconds = 0;          // from the start until the last request was over
  double sending_seconds = 0;  // until the last one was sent, or the time was over
  int64_t num_unsent = 0;      // were to be sent, but waited for a free place until the end
  int64_t num_cut_prompts = 0;
  bool is_interrupted = false;
  bool is_closed_loop = false;
  double worker_cpu_share = 0;  // of the busiest worker thread
  double process_cpu_seconds = 0;
};

/// One run of load: sends requests when they are due, through the workers, and collects what they
/// record.
///
/// Owned by the command; Run belongs to one thread, Stop may come from any.
class LoadRun {
 public:
  struct Params {
    RunPlan& plan;
    const PromptSource& prompts;
    const StreamOptions& options;
    /// One set of connections for each worker.
    std::vector<std::vector<std::unique_ptr<Connection>>>& connections;
    LiveCounts& live;
  };

  explicit LoadRun(const Params& params);
  ~LoadRun();

  /// Blocks until the run is over.
  RunResult Run();

  /// Sends nothing more and ends what runs.
  void Stop();

  const RunClock& clock() const { return clock_; }

 private:
  struct Due {
    int64_t at_ns = 0;
    std::unique_ptr<Session> session;
  };
  struct Later {
    bool operator()(const Due& a, const Due& b) const { return a.at_ns > b.at_ns; }
  };

  void Pace();
  std::vector<StreamStart> WaitForDue() ABSL_LOCKS_EXCLUDED(mutex_);
  std::vector<StreamStart> TakeDue(int64_t now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void TakeArrival() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::optional<int64_t> NextWakeUp() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool SendsNothingMore() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void EndSending(int64_t now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Drain();

  void OnEnd(std::unique_ptr<Session> session, RequestOutcome outcome);
  std::optional<StreamStart> AfterEnd(std::unique_ptr<Session> session, RequestOutcome outcome,
                                      int64_t now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::optional<StreamStart> Admit(Due due, int64_t eligible_ns, int64_t now)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::unique_ptr<Session> NewSession() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool HasFreeSlot(int64_t now) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  void Send(StreamStart start);
  void FillPrompt(StreamStart& start);
  void FitIntoContext(Session& session, Prompt& prompt);
  RunResult Collect();

  RunPlan& plan_;
  const PromptSource& prompts_;
  RunClock clock_;
  std::vector<std::unique_ptr<StreamWorker>> workers_;
  std::atomic<int64_t> num_cut_prompts_ = 0;

  absl::Mutex mutex_;
  absl::CondVar changed_;
  std::optional<int64_t> next_arrival_ns_ ABSL_GUARDED_BY(mutex_);
  std::priority_queue<Due, std::vector<Due>, Later> thinking_ ABSL_GUARDED_BY(mutex_);
  std::deque<Due> backlog_ ABSL_GUARDED_BY(mutex_);  // of an open loop with a limit
  int64_t num_active_ ABSL_GUARDED_BY(mutex_) = 0;   // requests
  int64_t num_slots_ ABSL_GUARDED_BY(mutex_) = 0;    // of a closed loop
  int64_t num_requests_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t num_sessions_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t num_unsent_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t sending_end_ns_ ABSL_GUARDED_BY(mutex_) = 0;  // 0 while sending
  bool is_stopped_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace moed::load
