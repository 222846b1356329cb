#pragma once

#include <grpcpp/completion_queue.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <unordered_set>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "client/connection.h"
#include "client/load/stream/run_clock.h"
#include "client/load/stream/run_recording.h"
#include "client/load/stream/session.h"
#include "moed/v1/inference.grpc.pb.h"

namespace moed::load {

/// What is the same for every request of a run.
struct StreamOptions {
  v1::GenerateRequest request;      // with everything but prompt and max_tokens
  bool keep_token_ids = false;      // hash them, and give them to sessions of several turns
  double deadline_s = 0;            // of each request; 0 = none
  int64_t cancel_after_tokens = 0;  // 0 = never
  double cancel_fraction = 1;       // of the requests
  double slow_reader_s = 0;         // pause before each message is read; 0 = none
  double slow_reader_fraction = 1;
  uint64_t seed = 0;  // chooses the requests of the fractions
};

/// What a run shows while it goes on; written by the workers, read by anyone.
struct LiveCounts {
  std::atomic<int64_t> num_sent = 0;
  std::atomic<int64_t> num_ended = 0;
  std::atomic<int64_t> num_failed = 0;
  std::atomic<int64_t> num_tokens = 0;
  std::atomic<int64_t> num_first_tokens = 0;
  std::atomic<int64_t> ttft_sum_ns = 0;
};

class GenerateStream;

/// A thread that reads many Generate streams from one completion queue. All bookkeeping of a stream
/// is done by that thread, so that a token costs no lock.
///
/// Owned by a run. Start and CancelAll may come from any thread.
class StreamWorker {
 public:
  struct Params {
    std::vector<std::unique_ptr<Connection>>& connections;  // used in turn
    const StreamOptions& options;
    const RunClock& clock;
    LiveCounts& live;
    RunRecording::Params recording;
    /// Takes a session back after its turn; called on the worker's thread, may call Start.
    std::function<void(std::unique_ptr<Session>, RequestOutcome)> on_end;
  };

  explicit StreamWorker(Params params);
  StreamWorker(const StreamWorker&) = delete;
  StreamWorker& operator=(const StreamWorker&) = delete;

  /// Every stream must have ended.
  ~StreamWorker();

  void Start(StreamStart start);

  /// Those that run now end as unfinished.
  void CancelAll();

  /// Ends the thread; every stream must have ended. Then recording and CPU time may be read.
  void Join();

  const RunRecording& recording() const { return recording_; }
  double cpu_seconds() const { return cpu_seconds_; }

 private:
  friend class GenerateStream;

  void Run();
  void Remove(GenerateStream* stream);

  const Params params_;
  RunRecording recording_;  // of the thread
  double cpu_seconds_ = 0;  // of the thread, once it has ended
  std::vector<std::unique_ptr<v1::InferenceService::Stub>> stubs_;
  std::atomic<size_t> next_stub_ = 0;
  grpc::CompletionQueue queue_;
  absl::Mutex mutex_;
  std::unordered_set<GenerateStream*> streams_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace moed::load
