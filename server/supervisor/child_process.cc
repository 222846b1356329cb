#include "server/supervisor/child_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "config/base/status_macros.h"
#include "server/supervisor/fork_exec.h"
#include "server/supervisor/line_splitter.h"

namespace moed {
namespace {

constexpr size_t kReadBytes = 16384;
constexpr int kMaxReadsAfterEnd = 16;  // a grandchild may hold the pipe and write on for ever

/// Signals are for the daemon's main thread.
void BlockAllSignals() {
  sigset_t all;
  sigfillset(&all);
  ::pthread_sigmask(SIG_BLOCK, &all, nullptr);
}

}  // namespace

absl::StatusOr<std::unique_ptr<ChildProcess>> ChildProcess::Spawn(ChildProcessOptions options) {
  std::unique_ptr<ChildProcess> child(new ChildProcess(std::move(options)));
  child->thread_ = std::thread([process = child.get()] { process->Run(); });
  MOED_RETURN_IF_ERROR(child->WaitForStart());
  return child;
}

absl::Status ChildProcess::WaitForStart() {
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(this, &ChildProcess::HasStarted));
  return *started_;
}

ChildProcess::~ChildProcess() {
  Signal(SIGKILL);
  thread_.join();
}

pid_t ChildProcess::pid() const {
  absl::MutexLock lock(&mutex_);
  return pid_;
}

void ChildProcess::Signal(int signal) {
  absl::MutexLock lock(&mutex_);  // the pid is ours until end_ is set
  if (pid_ > 0 && !end_.has_value()) ::kill(pid_, signal);
}

std::optional<ProcessEnd> ChildProcess::WaitForEnd(absl::Duration timeout) const {
  absl::MutexLock lock(&mutex_);
  mutex_.AwaitWithTimeout(absl::Condition(this, &ChildProcess::HasEnded), timeout);
  return end_;
}

void ChildProcess::Run() {
  BlockAllSignals();
  const absl::Status status = Fork();
  {
    absl::MutexLock lock(&mutex_);
    started_ = status;
  }
  if (!status.ok()) return;
  RelayUntilEnd();
  options_.on_end(Reap());
}

absl::Status ChildProcess::Fork() {
  int pipe_fds[2];
  if (::pipe2(pipe_fds, O_CLOEXEC) != 0) {
    return absl::InternalError(absl::StrCat("making a pipe for the output of ", options_.binary,
                                            ": ", std::strerror(errno)));
  }
  output_ = UniqueFd(pipe_fds[0]);
  const UniqueFd output_write(pipe_fds[1]);
  ::fcntl(output_.get(), F_SETFL, O_NONBLOCK);
  MOED_ASSIGN_OR_RETURN(const pid_t pid, ForkExec({.binary = options_.binary,
                                                   .args = options_.args,
                                                   .inherited_fds = options_.inherited_fds,
                                                   .output_fd = output_write.get()}));
  pid_fd_ = UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!pid_fd_.valid()) {
    const int error = errno;
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
    return absl::InternalError(
        absl::StrCat("watching ", options_.binary, " (pidfd_open): ", std::strerror(error)));
  }
  absl::MutexLock lock(&mutex_);
  pid_ = pid;
  return absl::OkStatus();
}

void ChildProcess::RelayUntilEnd() {
  LineSplitter lines(options_.on_line);
  pollfd fds[] = {{pid_fd_.get(), POLLIN, 0}, {output_.get(), POLLIN, 0}};
  while (true) {
    if (::poll(fds, 2, -1) < 0) continue;  // EINTR only: the arguments are right
    if (fds[0].revents != 0) break;
    // A child that closed its output may live on: a negative descriptor is not polled.
    if (fds[1].revents != 0 && !ReadOutput(lines)) fds[1].fd = -1;
  }
  for (int i = 0; i < kMaxReadsAfterEnd && ReadOutput(lines); ++i) {
  }
  lines.Flush();
  output_.Reset();
}

/// Passes on what there is; false when there is nothing left to read.
bool ChildProcess::ReadOutput(LineSplitter& lines) {
  std::array<char, kReadBytes> buffer;
  const ssize_t num_read = ::read(output_.get(), buffer.data(), buffer.size());
  if (num_read <= 0) return num_read < 0 && errno == EINTR;
  lines.Append(absl::string_view(buffer.data(), static_cast<size_t>(num_read)));
  return true;
}

ProcessEnd ChildProcess::Reap() {
  siginfo_t info = {};
  absl::MutexLock lock(&mutex_);
  ::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED);
  const bool exited = info.si_code == CLD_EXITED;
  end_ = exited ? ProcessEnd{.exit_code = info.si_status} : ProcessEnd{.signal = info.si_status};
  return *end_;
}

}  // namespace moed
