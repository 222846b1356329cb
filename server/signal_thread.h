#pragma once

#include <functional>
#include <thread>

#include "config/base/unique_fd.h"

namespace moed {

/// The thread that takes SIGINT and SIGTERM, so that no handler runs anywhere. Owned by the daemon.
class SignalThread {
 public:
  /// Blocks both signals for the calling thread and all that it starts: call first thing in main().
  static void BlockSignals();

  /// `on_signal` is called on this object's own thread, once for each signal, with its number.
  explicit SignalThread(std::function<void(int signal)> on_signal);
  ~SignalThread();

 private:
  void Run();

  const std::function<void(int)> on_signal_;
  UniqueFd signals_;  // signalfd
  UniqueFd stop_;     // eventfd
  std::thread thread_;
};

}  // namespace moed
