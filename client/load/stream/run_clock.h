#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

namespace moed::load {

/// Nanoseconds since the start of a run, on the monotonic clock. Any thread.
class RunClock {
 public:
  RunClock() : start_ns_(MonotonicNs()) {}

  /// The run starts now.
  void Restart() { start_ns_.store(MonotonicNs(), std::memory_order_relaxed); }

  int64_t Now() const { return MonotonicNs() - start_ns_.load(std::memory_order_relaxed); }

 private:
  static int64_t MonotonicNs() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(
               std::chrono::steady_clock::now().time_since_epoch())
        .count();
  }

  std::atomic<int64_t> start_ns_;
};

}  // namespace moed::load
