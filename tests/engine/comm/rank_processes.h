#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "config/base/check.h"
#include "config/base/unique_fd.h"

namespace moed {

/// Writes a status into a pipe: its code in one byte, then its message.
inline void WriteStatus(int fd, const absl::Status& status) {
  const std::string text =
      static_cast<char>(status.raw_code()) + std::string(status.message().substr(0, 4000));
  MOED_CHECK(::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size()));
}

/// What a process wrote before it ended; UNKNOWN with how it ended if that was nothing.
inline absl::Status ReadStatus(int fd, pid_t pid) {
  std::string text;
  char buffer[4096];
  for (ssize_t n; (n = ::read(fd, buffer, sizeof(buffer))) > 0;) text.append(buffer, n);
  int end = 0;
  MOED_CHECK(::waitpid(pid, &end, 0) == pid);
  if (text.empty()) {
    return absl::UnknownError(WIFSIGNALED(end) ? "signal " + std::to_string(WTERMSIG(end))
                                               : "exit " + std::to_string(WEXITSTATUS(end)));
  }
  return {static_cast<absl::StatusCode>(text[0]), text.substr(1)};
}

/// Calls body(rank) in one process per rank, and returns the results by rank. The caller must have
/// one thread only.
inline std::vector<absl::Status> RunRankProcesses(
    int32_t num_ranks, const std::function<absl::Status(int32_t rank)>& body) {
  std::vector<pid_t> pids;
  std::vector<UniqueFd> results;
  for (int32_t rank = 0; rank < num_ranks; ++rank) {
    int fds[2];
    MOED_CHECK(::pipe(fds) == 0);
    const pid_t pid = ::fork();
    MOED_CHECK(pid >= 0);
    if (pid == 0) {
      WriteStatus(fds[1], body(rank));
      ::_exit(0);
    }
    ::close(fds[1]);
    pids.push_back(pid);
    results.emplace_back(fds[0]);
  }
  std::vector<absl::Status> statuses;
  for (int32_t rank = 0; rank < num_ranks; ++rank) {
    statuses.push_back(ReadStatus(results[rank].get(), pids[rank]));
  }
  return statuses;
}

}  // namespace moed
