#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"

namespace moed::kernels::cpu {

/// A fixed set of threads that run the tasks of one parallel loop at a time.
///
/// Owned by a CpuBackend; ParallelFor is called from one thread only, which works as thread 0.
/// Every thread has a range of the tasks of its own, takes them in ascending order, and then takes
/// from the ends of the others' ranges, so results must not depend on the thread. Waiting threads
/// spin for some microseconds and then sleep in the kernel; a thread that wakes up late finds the
/// loop closed and is not waited for, so a busy core delays nobody (several ranks may share cores).
class ThreadPool {
 public:
  /// Task number in [0, num_tasks), and the running thread in [0, num_threads()).
  using Task = absl::FunctionRef<void(int64_t task, int thread)>;

  /// Thread i is pinned to cpus[i % size]; no cpus, no pinning. The calling thread of the first
  /// ParallelFor is pinned then. INVALID_ARGUMENT for fewer than 1 or more than 1024 threads or for
  /// a CPU that this process may not use.
  static absl::StatusOr<std::unique_ptr<ThreadPool>> Create(int num_threads, std::vector<int> cpus);

  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return static_cast<int>(workers_.size()) + 1; }

  /// Runs task(0..num_tasks-1), each once, and returns when all are done. Fewer than 2^32 tasks.
  /// Not reentrant.
  void ParallelFor(int64_t num_tasks, Task task);

 private:
  ThreadPool(int num_threads, std::vector<int> cpus);

  void WorkerLoop(int thread);
  /// Tasks [begin, end) that nobody has taken yet, as begin << 32 | end.
  struct alignas(64) Range {
    std::atomic<uint64_t> tasks{0};
  };

  static int64_t TakeFirst(Range& range);
  static int64_t TakeLast(Range& range);
  void RunTasks(int thread);
  bool Join();
  void Leave();
  void PinCaller();

  // state_ bit 0: a loop is open to join; the bits above: how many workers are in it.
  static constexpr uint32_t kOpen = 1;
  static constexpr uint32_t kOneWorker = 2;

  const std::vector<int> cpus_;
  bool caller_pinned_ = false;
  std::atomic<uint32_t> epoch_{0};  // changes when there is something new to look at
  std::atomic<bool> stopping_{false};
  std::atomic<uint32_t> state_{0};
  std::vector<Range> ranges_;   // [num_threads]; refilled only while state_ is 0
  const Task* task_ = nullptr;  // written only while state_ is 0
  std::vector<std::thread> workers_;
};

}  // namespace moed::kernels::cpu
