#pragma once

#include <functional>
#include <thread>

#include "absl/synchronization/notification.h"
#include "absl/time/time.h"

namespace moed::load {

/// Calls a function again and again from a thread of its own, until it is destroyed.
class PeriodicTask {
 public:
  PeriodicTask(absl::Duration period, std::function<void()> task)
      : thread_([this, period, task = std::move(task)] {
          while (!stop_.WaitForNotificationWithTimeout(period)) task();
        }) {}
  PeriodicTask(const PeriodicTask&) = delete;
  PeriodicTask& operator=(const PeriodicTask&) = delete;
  ~PeriodicTask() {
    stop_.Notify();
    thread_.join();
  }

 private:
  absl::Notification stop_;
  std::thread thread_;  // last: uses what is above
};

}  // namespace moed::load
