#include "server/supervisor/child_process.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/synchronization/notification.h"

namespace moed {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr absl::Duration kLong = absl::Seconds(30);

/// A child with its lines and its end.
class Child {
 public:
  explicit Child(std::string binary, std::vector<std::string> args,
                 std::vector<int> inherited_fds = {}) {
    absl::StatusOr<std::unique_ptr<ChildProcess>> process = ChildProcess::Spawn(
        {.binary = std::move(binary),
         .args = std::move(args),
         .inherited_fds = std::move(inherited_fds),
         .on_line = [this](absl::string_view line) { OnLine(std::string(line)); },
         .on_end = [this](const ProcessEnd&) { ended_.Notify(); }});
    status_ = process.status();
    if (process.ok()) process_ = *std::move(process);
  }

  ChildProcess& process() { return *process_; }
  const absl::Status& status() const { return status_; }

  /// All lines, once it has ended.
  std::vector<std::string> Lines() {
    ended_.WaitForNotification();
    absl::MutexLock lock(&mutex_);
    return lines_;
  }

  void WaitForLine(const std::string& line) {
    absl::MutexLock lock(&mutex_);
    const auto seen = [&] { return std::count(lines_.begin(), lines_.end(), line) > 0; };
    mutex_.Await(absl::Condition(&seen));
  }

  void Kill() { process_.reset(); }

 private:
  void OnLine(std::string line) {
    absl::MutexLock lock(&mutex_);
    lines_.push_back(std::move(line));
  }

  absl::Mutex mutex_;
  std::vector<std::string> lines_;
  absl::Notification ended_;
  absl::Status status_;
  std::unique_ptr<ChildProcess> process_;  // last: its thread uses the rest
};

TEST(ChildProcessTest, LinesOfBothStreamsArriveBeforeTheEnd) {
  Child child("/bin/sh", {"-c", "echo out; echo err >&2; printf last; exit 7"});
  ASSERT_TRUE(child.status().ok()) << child.status();
  EXPECT_THAT(child.Lines(), ElementsAre("out", "err", "last"));
  EXPECT_EQ(child.process().WaitForEnd(kLong), (ProcessEnd{.exit_code = 7}));
}

TEST(ChildProcessTest, ABinaryThatIsNotThereIsNamed) {
  Child child("/nonexistent/moed-engine", {});
  EXPECT_EQ(child.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(child.status().message()),
              HasSubstr("/nonexistent/moed-engine: No such file"));
}

TEST(ChildProcessTest, ASignalEndsItAndIsReported) {
  Child child("/bin/sh", {"-c", "echo ready; exec sleep 1000"});
  child.WaitForLine("ready");
  EXPECT_EQ(child.process().WaitForEnd(absl::ZeroDuration()), std::nullopt);
  child.process().Signal(SIGTERM);
  EXPECT_EQ(child.process().WaitForEnd(kLong), (ProcessEnd{.signal = SIGTERM}));
  child.process().Signal(SIGTERM);  // to nobody
}

TEST(ChildProcessTest, DestroyingItKillsAndReapsTheChild) {
  Child child("/bin/sh", {"-c", "trap '' TERM; echo ready; while :; do sleep 1000; done"});
  child.WaitForLine("ready");
  const pid_t pid = child.process().pid();
  child.Kill();
  EXPECT_EQ(::kill(pid, 0), -1);  // not even a zombie
  EXPECT_EQ(errno, ESRCH);
}

TEST(ChildProcessTest, OnlyNamedDescriptorsAreInherited) {
  const UniqueFd leaky(::open("/dev/null", O_RDONLY));  // without close-on-exec, as a library might
  const UniqueFd given(::open("/dev/zero", O_RDONLY | O_CLOEXEC));
  ASSERT_TRUE(leaky.valid() && given.valid());
  Child child("/bin/sh", {"-c", "for fd in /proc/$$/fd/*; do readlink $fd; done"}, {given.get()});
  const std::vector<std::string> lines = child.Lines();
  EXPECT_THAT(lines, Contains("/dev/zero").Times(1));
  EXPECT_THAT(lines, Contains("/dev/null").Times(1));         // stdin
  EXPECT_THAT(lines, Contains(HasSubstr("pipe:")).Times(2));  // stdout and stderr
}

TEST(ChildProcessTest, InheritedDescriptorsKeepTheirOrderWhateverTheirNumbers) {
  int fds[2];
  ASSERT_EQ(::pipe2(fds, O_CLOEXEC), 0);
  const UniqueFd read_end(fds[0]), write_end(fds[1]);
  const UniqueFd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  ASSERT_EQ(::write(write_end.get(), "hello\n", 6), 6);
  Child child("/bin/sh", {"-c", "readlink /proc/$$/fd/3; read line <&4; echo $line"},
              {null.get(), read_end.get()});
  EXPECT_THAT(child.Lines(), ElementsAre("/dev/null", "hello"));
}

TEST(ChildProcessTest, TheChildStartsWithFreshSignals) {
  sigset_t mask;
  sigemptyset(&mask);
  sigaddset(&mask, SIGTERM);
  ::pthread_sigmask(SIG_BLOCK, &mask, nullptr);
  ::signal(SIGUSR1, SIG_IGN);
  Child child("/bin/sh", {"-c", "grep -E 'Sig(Blk|Ign)' /proc/self/status"});
  const std::vector<std::string> lines = child.Lines();
  ::signal(SIGUSR1, SIG_DFL);
  ::pthread_sigmask(SIG_UNBLOCK, &mask, nullptr);
  EXPECT_THAT(lines, ElementsAre("SigBlk:\t0000000000000000",
                                 "SigIgn:\t0000000000000002"));  // a terminal's Ctrl-C is ours
}

TEST(ChildProcessTest, AGrandchildThatHoldsTheOutputDoesNotDelayTheEnd) {
  Child child("/bin/sh", {"-c", "sleep 1000 & echo $!; exit 4"});
  const std::vector<std::string> lines = child.Lines();
  EXPECT_EQ(child.process().WaitForEnd(kLong), (ProcessEnd{.exit_code = 4}));
  ASSERT_EQ(lines.size(), 1u);
  ::kill(std::stoi(lines[0]), SIGKILL);
}

TEST(ChildProcessTest, AChildThatClosesItsOutputIsStillWatched) {
  int fds[2];
  ASSERT_EQ(::pipe2(fds, O_CLOEXEC), 0);
  const UniqueFd read_end(fds[0]);
  UniqueFd write_end(fds[1]);
  Child child("/bin/sh", {"-c", "exec >&- 2>&-; read line <&3; exit 6"}, {read_end.get()});
  EXPECT_EQ(child.process().WaitForEnd(absl::Milliseconds(20)), std::nullopt);
  write_end.Reset();
  EXPECT_EQ(child.process().WaitForEnd(kLong), (ProcessEnd{.exit_code = 6}));
}

}  // namespace
}  // namespace moed
