#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "config/base/unique_fd.h"
#include "server/supervisor/process_end.h"

namespace moed {

class LineSplitter;

struct ChildProcessOptions {
  std::string binary;             // a path; PATH is not searched
  std::vector<std::string> args;  // without the program's name
  /// Become descriptors 3, 4, ... of the child. Everything else but stdio is closed there.
  std::vector<int> inherited_fds;
  std::function<void(absl::string_view line)> on_line;  // of stdout and stderr
  std::function<void(const ProcessEnd&)> on_end;        // once, after the last line
};

/// One child process, and the thread that forks it, passes its output on and reaps it.
///
/// The kernel kills the child when that thread ends, so no child survives this process, however it
/// ends. Owned by the engine group. All methods may be called from any thread; the callbacks come
/// from the child's own thread.
class ChildProcess {
 public:
  /// Returns when the program runs. The status names the binary and why it cannot be executed.
  static absl::StatusOr<std::unique_ptr<ChildProcess>> Spawn(ChildProcessOptions options);
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;
  ~ChildProcess();  // kills it if it still runs, and reaps it

  pid_t pid() const;

  /// Sends a signal unless the process has ended.
  void Signal(int signal);

  /// How it ended, or nothing when it still runs after `timeout`.
  std::optional<ProcessEnd> WaitForEnd(absl::Duration timeout) const;

 private:
  explicit ChildProcess(ChildProcessOptions options) : options_(std::move(options)) {}

  absl::Status WaitForStart();
  bool HasStarted() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return started_.has_value(); }
  bool HasEnded() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return end_.has_value(); }
  void Run();  // the thread
  absl::Status Fork();
  void RelayUntilEnd();
  bool ReadOutput(LineSplitter& lines);
  ProcessEnd Reap();

  const ChildProcessOptions options_;
  UniqueFd output_;  // read end of the child's stdout and stderr; of the thread
  UniqueFd pid_fd_;  // readable when the child has ended; of the thread
  mutable absl::Mutex mutex_;
  std::optional<absl::Status> started_ ABSL_GUARDED_BY(mutex_);
  pid_t pid_ ABSL_GUARDED_BY(mutex_) = -1;
  std::optional<ProcessEnd> end_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace moed
