#include "server/supervisor/fork_exec.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "config/base/check.h"
#include "config/base/unique_fd.h"

namespace moed {
namespace {

constexpr unsigned kCloseRangeCloexec = 4;  // linux/close_range.h
constexpr int kFirstInheritedFd = 3;
constexpr int kFirstScratchFd = 64;  // above every descriptor that the child is given

/// All that the child needs, laid out before the fork.
struct ChildImage {
  const char* binary = nullptr;
  char* const* argv = nullptr;
  std::array<int, kMaxInheritedFds> inherited_fds = {};
  int num_inherited_fds = 0;
  int output_fd = -1;
  int error_fd = -1;
  pid_t parent_pid = -1;
};

// From here to ExecChild, functions run between fork and exec in a process that had other threads:
// they may call nothing that is not async-signal-safe. In particular they must not allocate.

void ResetSignals() {
  struct sigaction action = {};
  action.sa_handler = SIG_DFL;
  for (int signal = 1; signal < NSIG; ++signal) ::sigaction(signal, &action, nullptr);
  action.sa_handler = SIG_IGN;
  ::sigaction(SIGINT, &action, nullptr);
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
}

/// Moves a descriptor out of the way of those that are about to be assigned.
bool MoveAside(int& fd) {
  fd = ::fcntl(fd, F_DUPFD_CLOEXEC, kFirstScratchFd);
  return fd >= 0;
}

bool AssignFds(ChildImage& child) {
  if (!MoveAside(child.error_fd) || !MoveAside(child.output_fd)) return false;
  for (int i = 0; i < child.num_inherited_fds; ++i) {
    if (!MoveAside(child.inherited_fds[i])) return false;
  }
  int null_fd = ::open("/dev/null", O_RDONLY);
  if (null_fd < 0 || ::dup2(null_fd, STDIN_FILENO) < 0) return false;
  if (::dup2(child.output_fd, STDOUT_FILENO) < 0) return false;
  if (::dup2(child.output_fd, STDERR_FILENO) < 0) return false;
  for (int i = 0; i < child.num_inherited_fds; ++i) {
    if (::dup2(child.inherited_fds[i], kFirstInheritedFd + i) < 0) return false;
  }
  // For those that a library opened without close-on-exec. Absent before Linux 5.11: then it is up
  // to them.
  ::syscall(SYS_close_range, kFirstInheritedFd + child.num_inherited_fds, ~0u, kCloseRangeCloexec);
  return true;
}

[[noreturn]] void ExecChild(ChildImage& child) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  // The parent may have died before that line: then nobody would tell us.
  if (::getppid() != child.parent_pid) ::_exit(127);
  if (AssignFds(child)) {
    ResetSignals();
    ::execv(child.binary, child.argv);
  }
  const int error = errno;
  [[maybe_unused]] const ssize_t written = ::write(child.error_fd, &error, sizeof(error));
  ::_exit(127);
}

/// errno of the child's failure to start, or 0 when the pipe closed because it executes the
/// program.
int ReadChildError(int fd) {
  int error = 0;
  ssize_t num_read;
  do {
    num_read = ::read(fd, &error, sizeof(error));
  } while (num_read < 0 && errno == EINTR);
  return num_read == sizeof(error) ? error : 0;
}

absl::Status StartError(const std::string& binary, int error) {
  return absl::UnavailableError(absl::StrCat("starting ", binary, ": ", std::strerror(error)));
}

}  // namespace

absl::StatusOr<pid_t> ForkExec(const ForkExecParams& params) {
  MOED_CHECK(params.inherited_fds.size() <= kMaxInheritedFds);
  std::vector<char*> argv = {const_cast<char*>(params.binary.c_str())};
  for (const std::string& arg : params.args) argv.push_back(const_cast<char*>(arg.c_str()));
  argv.push_back(nullptr);
  int pipe_fds[2];
  if (::pipe2(pipe_fds, O_CLOEXEC) != 0) return StartError(params.binary, errno);
  const UniqueFd error_read(pipe_fds[0]);
  UniqueFd error_write(pipe_fds[1]);

  ChildImage child{.binary = argv[0],
                   .argv = argv.data(),
                   .num_inherited_fds = static_cast<int>(params.inherited_fds.size()),
                   .output_fd = params.output_fd,
                   .error_fd = error_write.get(),
                   .parent_pid = ::getpid()};
  std::copy(params.inherited_fds.begin(), params.inherited_fds.end(), child.inherited_fds.begin());
  const pid_t pid = ::fork();
  if (pid < 0) return StartError(params.binary, errno);
  if (pid == 0) ExecChild(child);

  error_write.Reset();
  if (const int error = ReadChildError(error_read.get()); error != 0) {
    ::waitpid(pid, nullptr, 0);
    return StartError(params.binary, error);
  }
  return pid;
}

}  // namespace moed
