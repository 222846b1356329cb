#pragma once

#include <chrono>
#include <cstdint>

namespace moed::load {

/// Nanoseconds since the start of a run, on the monotonic clock.
///
/// A value; any thread.
class RunClock {
 public:
  RunClock() : start_(std::chrono::steady_clock::now()) {}

  int64_t Now() const {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() -
                                                                start_)
        .count();
  }

 private:
  std::chrono::steady_clock::time_point start_;
};

}  // namespace moed::load
