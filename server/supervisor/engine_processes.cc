#include "server/supervisor/engine_processes.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "config/base/status_macros.h"
#include "engine/comm/shm_communicator.h"
#include "server/supervisor/engine_log.h"

namespace moed {

absl::StatusOr<std::unique_ptr<EngineProcesses>> EngineProcesses::Start(
    EngineProcessesOptions options) {
  const int32_t num_ranks = options.num_ranks;
  UniqueFd segment;
  if (num_ranks > 1) {
    MOED_ASSIGN_OR_RETURN(segment,
                          CreateShmSegment(num_ranks, options.max_exchange_bytes_per_rank));
  }
  MOED_ASSIGN_OR_RETURN(std::unique_ptr<SocketDirectory> directory,
                        SocketDirectory::Create(num_ranks));
  int pipe_fds[2];
  if (::pipe2(pipe_fds, O_CLOEXEC) != 0) {
    return absl::InternalError(
        absl::StrCat("making the pipe that the engines watch: ", std::strerror(errno)));
  }
  const UniqueFd alive_read(pipe_fds[0]);
  std::unique_ptr<EngineProcesses> engines(
      new EngineProcesses(std::move(options), std::move(directory), UniqueFd(pipe_fds[1])));
  for (int32_t rank = 0; rank < num_ranks; ++rank) {
    MOED_RETURN_IF_ERROR(engines->Spawn(rank, alive_read.get(), segment.get()));
  }
  return engines;
}

absl::Status EngineProcesses::Spawn(int32_t rank, int alive_fd, int segment_fd) {
  ChildProcessOptions child{
      .binary = options_.binary,
      .args = options_.args,
      .inherited_fds = {alive_fd},
      .on_line = [rank](absl::string_view line) { LogEngineLine(rank, line); },
      .on_end = [this, rank](const ProcessEnd& end) { options_.on_end(rank, end); }};
  child.args.push_back(absl::StrCat("--listen=unix:", directory_->SocketPath(rank)));
  child.args.push_back("--parent-fd=3");
  if (segment_fd >= 0) {
    child.inherited_fds.push_back(segment_fd);
    child.args.push_back("--shm-fd=4");
  }
  absl::StatusOr<std::unique_ptr<ChildProcess>> process = ChildProcess::Spawn(std::move(child));
  if (!process.ok()) {
    return absl::Status(process.status().code(),
                        absl::StrCat("rank ", rank, ": ", process.status().message()));
  }
  processes_.push_back(*std::move(process));
  return absl::OkStatus();
}

EngineProcesses::~EngineProcesses() {
  for (const auto& process : processes_) process->Signal(SIGKILL);  // all at once, then reap
}

std::vector<std::string> EngineProcesses::addresses() const {
  std::vector<std::string> addresses;
  for (int32_t rank = 0; rank < options_.num_ranks; ++rank) {
    addresses.push_back(absl::StrCat("unix:", directory_->SocketPath(rank)));
  }
  return addresses;
}

void EngineProcesses::Terminate(absl::Duration timeout) {
  for (const auto& process : processes_) process->Signal(SIGTERM);
  const absl::Time deadline = absl::Now() + timeout;
  for (const auto& process : processes_) process->WaitForEnd(deadline - absl::Now());
}

absl::StatusOr<std::string> PathBesideThisProgram(const std::string& name) {
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) {
    return absl::InternalError(
        absl::StrCat("finding ", name, " beside this program: ", error.message()));
  }
  return (program.parent_path() / name).string();
}

}  // namespace moed
