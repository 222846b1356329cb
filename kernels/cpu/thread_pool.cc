#include "kernels/cpu/thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "config/base/check.h"

namespace moed::kernels::cpu {
namespace {

constexpr int kMaxThreads = 1024;
constexpr int kSpins = 1000;  // a few tens of microseconds

inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// Returns when `value` is no longer `old`: spins a while, then sleeps.
template <typename T>
void WaitWhileEqual(const std::atomic<T>& value, T old) {
  for (int i = 0; i < kSpins; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    Pause();
  }
  value.wait(old, std::memory_order_acquire);
}

void PinCurrentThread(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  // Create() has checked the CPU; should it have gone since, the thread runs unpinned.
  (void)pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
}

absl::Status CheckCpus(const std::vector<int>& cpus) {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) {
    return absl::InternalError("reading the CPUs of this process failed");
  }
  for (int cpu : cpus) {
    if (cpu < 0 || cpu >= CPU_SETSIZE || !CPU_ISSET(cpu, &allowed)) {
      return absl::InvalidArgumentError(
          absl::StrCat("pinning compute threads: this process may not run on CPU ", cpu));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<ThreadPool>> ThreadPool::Create(int num_threads,
                                                               std::vector<int> cpus) {
  if (num_threads < 1 || num_threads > kMaxThreads) {
    return absl::InvalidArgumentError(
        absl::StrCat("compute threads: expected 1 to ", kMaxThreads, ", got ", num_threads));
  }
  if (absl::Status status = CheckCpus(cpus); !cpus.empty() && !status.ok()) return status;
  return std::unique_ptr<ThreadPool>(new ThreadPool(num_threads, std::move(cpus)));
}

ThreadPool::ThreadPool(int num_threads, std::vector<int> cpus)
    : cpus_(std::move(cpus)), ranges_(num_threads) {
  workers_.reserve(num_threads - 1);
  for (int thread = 1; thread < num_threads; ++thread) {
    workers_.emplace_back([this, thread] { WorkerLoop(thread); });
  }
}

ThreadPool::~ThreadPool() {
  stopping_.store(true, std::memory_order_relaxed);
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::ParallelFor(int64_t num_tasks, Task task) {
  PinCaller();
  if (workers_.empty() || num_tasks <= 1) {
    for (int64_t i = 0; i < num_tasks; ++i) task(i, 0);
    return;
  }
  MOED_CHECK(num_tasks < int64_t{1} << 32);
  task_ = &task;
  const int64_t num_ranges = static_cast<int64_t>(ranges_.size());
  for (int64_t i = 0; i < num_ranges; ++i) {
    const uint64_t begin = num_tasks * i / num_ranges, end = num_tasks * (i + 1) / num_ranges;
    ranges_[i].tasks.store(begin << 32 | end, std::memory_order_relaxed);
  }
  state_.store(kOpen, std::memory_order_release);
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
  RunTasks(0);
  uint32_t state = state_.fetch_and(~kOpen, std::memory_order_acq_rel) & ~kOpen;
  while (state != 0) {
    WaitWhileEqual(state_, state);
    state = state_.load(std::memory_order_acquire);
  }
}

void ThreadPool::WorkerLoop(int thread) {
  if (!cpus_.empty()) PinCurrentThread(cpus_[thread % cpus_.size()]);
  uint32_t seen = 0;
  while (true) {
    WaitWhileEqual(epoch_, seen);
    seen = epoch_.load(std::memory_order_acquire);
    if (stopping_.load(std::memory_order_relaxed)) return;
    if (!Join()) continue;
    RunTasks(thread);
    Leave();
  }
}

int64_t ThreadPool::TakeFirst(Range& range) {
  uint64_t tasks = range.tasks.load(std::memory_order_relaxed);
  while (tasks >> 32 < (tasks & UINT32_MAX)) {
    if (range.tasks.compare_exchange_weak(tasks, tasks + (uint64_t{1} << 32),
                                          std::memory_order_relaxed)) {
      return static_cast<int64_t>(tasks >> 32);
    }
  }
  return -1;
}

int64_t ThreadPool::TakeLast(Range& range) {
  uint64_t tasks = range.tasks.load(std::memory_order_relaxed);
  while (tasks >> 32 < (tasks & UINT32_MAX)) {
    if (range.tasks.compare_exchange_weak(tasks, tasks - 1, std::memory_order_relaxed)) {
      return static_cast<int64_t>((tasks & UINT32_MAX) - 1);
    }
  }
  return -1;
}

void ThreadPool::RunTasks(int thread) {
  for (int64_t i = TakeFirst(ranges_[thread]); i >= 0; i = TakeFirst(ranges_[thread])) {
    (*task_)(i, thread);
  }
  const int num_ranges = static_cast<int>(ranges_.size());
  for (int other = 1; other < num_ranges; ++other) {
    Range& range = ranges_[(thread + other) % num_ranges];
    for (int64_t i = TakeLast(range); i >= 0; i = TakeLast(range)) (*task_)(i, thread);
  }
}

bool ThreadPool::Join() {
  uint32_t state = state_.load(std::memory_order_relaxed);
  while (state & kOpen) {
    if (state_.compare_exchange_weak(state, state + kOneWorker, std::memory_order_acquire)) {
      return true;
    }
  }
  return false;
}

void ThreadPool::Leave() {
  state_.fetch_sub(kOneWorker, std::memory_order_release);
  state_.notify_one();
}

void ThreadPool::PinCaller() {
  if (caller_pinned_ || cpus_.empty()) return;
  PinCurrentThread(cpus_[0]);
  caller_pinned_ = true;
}

}  // namespace moed::kernels::cpu
