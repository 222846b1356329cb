#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"

namespace moed {

/// The threads that turn texts into tokens, so that long texts hold up neither gRPC's threads nor
/// more cores than they may. Tenants take turns: one that sends many texts delays only itself.
///
/// Owned by the RpcServer; Post may come from any thread.
class TokenizerPool {
 public:
  struct Params {
    int32_t num_threads = 1;
    int32_t max_waiting_texts = 256;
    int64_t max_waiting_bytes = 64 << 20;
  };

  explicit TokenizerPool(const Params& params);
  /// Runs what waits, then ends the threads.
  ~TokenizerPool();

  /// Runs `job`, which works on a text of `num_bytes`, on one of the threads. RESOURCE_EXHAUSTED
  /// when too much waits already; a single text is never too much. A tenant that has a name (""
  /// stands for everybody where there are no tokens) may fill half of what the others leave free.
  absl::Status Post(const std::string& tenant, int64_t num_bytes, std::function<void()> job);

 private:
  struct Job {
    int64_t num_bytes = 0;
    std::function<void()> run;
  };
  struct Queue {
    std::deque<Job> jobs;
    int64_t num_bytes = 0;
  };

  bool HasRoom(const std::string& tenant, int64_t num_bytes) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool IsCalled() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return is_over_ || num_waiting_ > 0;
  }
  Job TakeNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Run() ABSL_LOCKS_EXCLUDED(mutex_);

  const Params params_;
  absl::Mutex mutex_;
  std::map<std::string, Queue> queues_ ABSL_GUARDED_BY(mutex_);  // by tenant; none is empty
  std::string last_tenant_ ABSL_GUARDED_BY(mutex_);              // whose turn it was last
  int32_t num_waiting_ ABSL_GUARDED_BY(mutex_) = 0;              // over queues_
  int64_t num_waiting_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool is_over_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;  // last: they use all of the above
};

}  // namespace moed
