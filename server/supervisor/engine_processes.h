#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "config/base/unique_fd.h"
#include "server/supervisor/child_process.h"
#include "server/supervisor/process_end.h"
#include "server/supervisor/socket_directory.h"

namespace moed {

struct EngineProcessesOptions {
  std::string binary;
  std::vector<std::string> args;  // more flags for every engine
  int32_t num_ranks = 1;
  int64_t max_exchange_bytes_per_rank = 0;
  std::function<void(int32_t rank, const ProcessEnd&)> on_end;  // from the threads of the children
};

/// One generation of engine processes and what they share: the exchange segment, the sockets'
/// directory and the pipe that tells them that the daemon lives. All of it is gone with this
/// object.
///
/// Owned by the engine group, used by its thread.
class EngineProcesses {
 public:
  /// Starts all ranks; they listen soon afterwards. The status names the rank that cannot be
  /// started.
  static absl::StatusOr<std::unique_ptr<EngineProcesses>> Start(EngineProcessesOptions options);
  EngineProcesses(const EngineProcesses&) = delete;
  EngineProcesses& operator=(const EngineProcesses&) = delete;
  ~EngineProcesses();  // kills and reaps what still runs

  pid_t pid(int32_t rank) const { return processes_[static_cast<size_t>(rank)]->pid(); }
  std::vector<std::string> addresses() const;  // [num_ranks], "unix:PATH"

  /// Removes the sockets, once all engines are connected: not even a killed daemon leaves them
  /// behind.
  void RemoveSockets() { directory_.reset(); }

  /// SIGTERM to all, and up to `timeout` for them to end.
  void Terminate(absl::Duration timeout);

 private:
  EngineProcesses(EngineProcessesOptions options, std::unique_ptr<SocketDirectory> directory,
                  UniqueFd alive_pipe)
      : options_(std::move(options)),
        directory_(std::move(directory)),
        alive_pipe_(std::move(alive_pipe)) {}

  absl::Status Spawn(int32_t rank, int alive_fd, int segment_fd);

  const EngineProcessesOptions options_;
  std::unique_ptr<SocketDirectory> directory_;  // null once the sockets are removed
  const UniqueFd alive_pipe_;  // write end: the engines exit when it closes, by whatever means
  std::vector<std::unique_ptr<ChildProcess>> processes_;
};

/// The path of `name` in the directory of the running program.
absl::StatusOr<std::string> PathBesideThisProgram(const std::string& name);

}  // namespace moed
