#pragma once

#include <chrono>

namespace moed {

/// Adds the seconds of its lifetime to `seconds`, which must outlive it. On a backend that runs ops
/// asynchronously this is the time to enqueue them.
class ScopedTimer {
 public:
  explicit ScopedTimer(double& seconds)
      : seconds_(seconds), begin_(std::chrono::steady_clock::now()) {}
  ScopedTimer(const ScopedTimer&) = delete;
  ScopedTimer& operator=(const ScopedTimer&) = delete;
  ~ScopedTimer() {
    seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
  }

 private:
  double& seconds_;
  const std::chrono::steady_clock::time_point begin_;
};

}  // namespace moed
