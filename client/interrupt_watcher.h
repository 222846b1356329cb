#pragma once

#include <functional>
#include <memory>
#include <thread>

#include "absl/status/statusor.h"
#include "config/base/unique_fd.h"

namespace moed {

/// Calls back from a thread of its own when SIGINT or SIGTERM comes, instead of the process being
/// killed. Owned by main; block both signals (BlockInterrupts) before any other thread starts.
class InterruptWatcher {
 public:
  static absl::StatusOr<std::unique_ptr<InterruptWatcher>> Create(
      std::function<void()> on_interrupt);
  InterruptWatcher(const InterruptWatcher&) = delete;
  InterruptWatcher& operator=(const InterruptWatcher&) = delete;
  ~InterruptWatcher();

 private:
  InterruptWatcher(UniqueFd signals, UniqueFd stop)
      : signals_(std::move(signals)), stop_(std::move(stop)) {}

  void Run(const std::function<void()>& on_interrupt);

  const UniqueFd signals_;
  const UniqueFd stop_;
  std::thread thread_;
};

/// For the calling thread and those it starts.
void BlockInterrupts();

}  // namespace moed
