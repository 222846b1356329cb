#include "server/supervisor/process_engine_group.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "tests/fakes/fake_engine.h"

namespace moed {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

ProcessEngineGroupOptions Options(std::vector<std::string> args = {}, int32_t num_ranks = 2) {
  ProcessEngineGroupOptions options{.engine_binary = MOED_BINARY_DIR "/fake-engine",
                                    .engine_args = std::move(args),
                                    .load_timeout = absl::Seconds(60),
                                    .step_timeout = absl::Seconds(60)};
  options.engine.placement = ExpertPlacement::Linear(2, 4, num_ranks);
  options.engine.num_blocks = 10;
  options.engine.max_exchange_bytes_per_rank = 4096;
  return options;
}

std::vector<std::string> Fault(const std::string& kind, uint64_t step_id = 0) {
  return {"--fault=" + kind, "--fault-rank=1", absl::StrCat("--fault-step=", step_id)};
}

Slice SampledSlice(uint64_t sequence_id) {
  return {.sequence_id = sequence_id, .token_ids = {1, 2, 3}, .sample = SampleRequest{}};
}

std::vector<StepPlan> Plans(uint64_t step_id, int32_t num_ranks = 2) {
  std::vector<StepPlan> plans(static_cast<size_t>(num_ranks));
  for (size_t rank = 0; rank < plans.size(); ++rank) {
    plans[rank].step_id = step_id;
    plans[rank].slices = {SampledSlice(rank)};
  }
  return plans;
}

/// A file whose removal arms a fault exactly once.
class OnceFile {
 public:
  OnceFile() {
    const int fd = ::mkstemp(path_.data());
    EXPECT_GE(fd, 0);
    ::close(fd);
  }
  ~OnceFile() { ::unlink(path_.c_str()); }
  const std::string& path() const { return path_; }

 private:
  std::string path_ = "/tmp/moed-once-XXXXXX";
};

/// Descriptors that an engine group could leave behind; gRPC's own event descriptors come and go.
int CountOpenFds() {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code error;
    const std::string target = std::filesystem::read_symlink(entry.path(), error).string();
    for (const char* kind : {"pipe:", "socket:", "/memfd:", "anon_inode:[pidfd]"}) {
      count += target.rfind(kind, 0) == 0;
    }
  }
  return count;
}

/// gRPC closes sockets from a thread of its own, soon after its channel is gone.
testing::AssertionResult OpenFdsGoBackTo(int num_fds) {
  const absl::Time deadline = absl::Now() + absl::Seconds(10);
  int count = CountOpenFds();
  while (count != num_fds && absl::Now() < deadline) {
    std::this_thread::yield();
    count = CountOpenFds();
  }
  if (count == num_fds) return testing::AssertionSuccess();
  return testing::AssertionFailure() << count << " descriptors are open, expected " << num_fds;
}

const int kNumFdsOfThisProgram = CountOpenFds();  // before any test

bool IsGone(pid_t pid) { return ::kill(pid, 0) == -1 && errno == ESRCH; }

TEST(ProcessEngineGroupTest, StepsGoToTheirRanksAndResultsComeBackInOrder) {
  ProcessEngineGroup group(Options({}, 3));
  ASSERT_EQ(group.Start(), absl::OkStatus());
  ASSERT_EQ(group.infos().size(), 3u);
  for (int32_t rank = 0; rank < 3; ++rank) EXPECT_EQ(group.infos()[rank].rank, rank);
  for (uint64_t step = 1; step <= 20; ++step) {
    const absl::StatusOr<std::vector<StepResult>> results = group.Execute(Plans(step, 3));
    ASSERT_TRUE(results.ok()) << results.status();
    for (uint64_t rank = 0; rank < 3; ++rank) {
      EXPECT_EQ((*results)[rank].step_id, step);
      EXPECT_EQ((*results)[rank].sampled.at(0).sequence_id, rank);
      EXPECT_EQ((*results)[rank].sampled.at(0).token_id, FakeToken(SampledSlice(rank)));
    }
  }
}

TEST(ProcessEngineGroupTest, OneRankNeedsNoExchangeSegment) {
  ProcessEngineGroupOptions options = Options({}, 1);
  options.engine.max_exchange_bytes_per_rank = 0;
  ProcessEngineGroup group(options);
  ASSERT_EQ(group.Start(), absl::OkStatus());
  EXPECT_TRUE(group.Execute(Plans(1, 1)).ok());
}

TEST(ProcessEngineGroupTest, StatusShowsProcessesAndRestarts) {
  ProcessEngineGroup group(Options());
  EXPECT_EQ(group.rank_processes().at(1).pid, -1);
  ASSERT_EQ(group.Start(), absl::OkStatus());
  const std::vector<RankProcess> first = group.rank_processes();
  EXPECT_TRUE(first[0].up && first[1].up);
  EXPECT_EQ(first[1].weights_loaded_ratio, 1);
  EXPECT_FALSE(IsGone(first[1].pid));
  ASSERT_EQ(group.Restart(), absl::OkStatus());
  EXPECT_EQ(group.rank_processes()[1].num_restarts, 1);
  EXPECT_NE(group.rank_processes()[1].pid, first[1].pid);
  EXPECT_TRUE(IsGone(first[0].pid) && IsGone(first[1].pid));
}

TEST(ProcessEngineGroupTest, AMissingBinaryIsNamed) {
  ProcessEngineGroupOptions options = Options();
  options.engine_binary = "/nonexistent/engine";
  ProcessEngineGroup group(options);
  EXPECT_THAT(std::string(group.Start().message()),
              AllOf(HasSubstr("rank 0"), HasSubstr("/nonexistent/engine: No such file")));
  EXPECT_FALSE(group.rank_processes()[0].up);
}

struct StartFailure {
  std::string fault;
  absl::StatusCode code;
  std::string message;
};

class StartFailureTest : public ::testing::TestWithParam<StartFailure> {};

TEST_P(StartFailureTest, NamesRankAndCauseAndLeavesNothing) {
  {
    ProcessEngineGroup group(Options(Fault(GetParam().fault)));
    const absl::Status status = group.Start();
    EXPECT_EQ(status.code(), GetParam().code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().message));
    for (const RankProcess& rank : group.rank_processes()) {
      EXPECT_FALSE(rank.up);
      EXPECT_TRUE(IsGone(rank.pid)) << rank.pid;
    }
  }
  EXPECT_TRUE(OpenFdsGoBackTo(kNumFdsOfThisProgram));
}

INSTANTIATE_TEST_SUITE_P(
    Faults, StartFailureTest,
    ::testing::Values(StartFailure{"exit_at_start", absl::StatusCode::kUnavailable,
                                   "rank 1 exited with code 3"},
                      StartFailure{"abort_at_start", absl::StatusCode::kUnavailable,
                                   "rank 1 was killed by signal 6"},
                      StartFailure{"kill_in_load", absl::StatusCode::kUnavailable,
                                   "rank 1 was killed by signal 9"},
                      StartFailure{"error_in_load", absl::StatusCode::kInvalidArgument,
                                   "rank 1: model.norm.weight is missing"},
                      StartFailure{"wrong_info", absl::StatusCode::kInternal,
                                   "rank 1: the engine reports num_blocks 11"}),
    [](const auto& info) { return info.param.fault; });

TEST(ProcessEngineGroupTest, ALoadThatHangsMeetsItsDeadline) {
  ProcessEngineGroupOptions options = Options(Fault("hang_in_load"));
  options.load_timeout = absl::Milliseconds(300);
  ProcessEngineGroup group(options);
  const absl::Status status = group.Start();
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(status.message()), HasSubstr("1 did not load within 300ms"));
}

struct StepFailure {
  std::string fault;
  absl::StatusCode code;
  std::string message;
};

class StepFailureTest : public ::testing::TestWithParam<StepFailure> {};

TEST_P(StepFailureTest, NamesStepRankAndCauseAndARestartServesOn) {
  const OnceFile once;
  std::vector<std::string> args = Fault(GetParam().fault, 2);
  args.push_back("--fault-once=" + once.path());
  ProcessEngineGroupOptions options = Options(args);
  if (GetParam().code == absl::StatusCode::kDeadlineExceeded) {
    options.step_timeout = absl::Milliseconds(300);
  }
  ProcessEngineGroup group(options);
  ASSERT_EQ(group.Start(), absl::OkStatus());
  ASSERT_TRUE(group.Execute(Plans(1)).ok());

  const absl::Status status = group.Execute(Plans(2)).status();
  EXPECT_EQ(status.code(), GetParam().code) << status;
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("executing step 2: "), HasSubstr(GetParam().message)));

  EXPECT_FALSE(group.Execute(Plans(3)).ok()) << "the group is lost until it is restarted";
  ASSERT_EQ(group.Restart(), absl::OkStatus());
  EXPECT_TRUE(group.Execute(Plans(4)).ok());
}

INSTANTIATE_TEST_SUITE_P(
    Faults, StepFailureTest,
    ::testing::Values(
        StepFailure{"kill_in_step", absl::StatusCode::kUnavailable,
                    "rank 1 was killed by signal 9 (Killed)"},
        StepFailure{"exit_in_step", absl::StatusCode::kUnavailable, "rank 1 exited with code 5"},
        StepFailure{"hang_in_step", absl::StatusCode::kDeadlineExceeded,
                    "ranks 1 did not answer within 300ms"},
        StepFailure{"wrong_id_in_step", absl::StatusCode::kInternal,
                    "rank 1: the engine answered step 2 with a result of step 3"},
        StepFailure{"wrong_sequence_in_step", absl::StatusCode::kInternal,
                    "rank 1: the engine's result of step 2 has no token for sequence 1"},
        StepFailure{"error_in_step", absl::StatusCode::kInvalidArgument,
                    "rank 1: slice 0 is too long"}),
    [](const auto& info) { return info.param.fault; });

TEST(ProcessEngineGroupTest, ADeathBetweenStepsIsReportedOnceAtOnce) {
  ProcessEngineGroup group(Options());
  absl::Notification died;  // a second call would be fatal
  group.SetDeathCallback([&] { died.Notify(); });
  ASSERT_EQ(group.Start(), absl::OkStatus());
  ASSERT_TRUE(group.Execute(Plans(1)).ok());
  for (const RankProcess& rank : group.rank_processes()) ::kill(rank.pid, SIGKILL);
  died.WaitForNotification();
  const absl::Status status = group.Execute(Plans(2)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("was killed by signal 9"));
}

TEST(ProcessEngineGroupTest, StoppingRestartingAndCancellingAreNoDeaths) {
  std::atomic<int> num_deaths = 0;
  {
    ProcessEngineGroup group(Options());
    group.SetDeathCallback([&] { ++num_deaths; });
    ASSERT_EQ(group.Start(), absl::OkStatus());
    ASSERT_EQ(group.Restart(), absl::OkStatus());
    const std::vector<RankProcess> ranks = group.rank_processes();
    group.Cancel();  // ends the sessions, and with them the engines
    for (const RankProcess& rank : ranks) {
      while (!IsGone(rank.pid)) std::this_thread::yield();
    }
  }
  EXPECT_EQ(num_deaths, 0);
}

/// Points XDG_RUNTIME_DIR at a directory of its own.
class RuntimeDirectory {
 public:
  RuntimeDirectory() {
    EXPECT_NE(::mkdtemp(path_.data()), nullptr);
    ::setenv("XDG_RUNTIME_DIR", path_.c_str(), 1);
  }
  ~RuntimeDirectory() {
    ::unsetenv("XDG_RUNTIME_DIR");
    std::filesystem::remove_all(path_);
  }
  bool empty() const { return std::filesystem::is_empty(path_); }

 private:
  std::string path_ = "/tmp/moed-runtime-XXXXXX";
};

TEST(ProcessEngineGroupTest, ManyRestartsLeakNoDescriptorsAndNoFiles) {
  const RuntimeDirectory runtime_directory;
  {
    ProcessEngineGroup group(Options());
    ASSERT_EQ(group.Start(), absl::OkStatus());
    ASSERT_TRUE(group.Execute(Plans(1)).ok());
    const int num_fds_serving = CountOpenFds();
    for (size_t i = 0; i < 8; ++i) {
      ::kill(group.rank_processes()[i % 2].pid, SIGKILL);
      ASSERT_EQ(group.Restart(), absl::OkStatus());
      ASSERT_TRUE(group.Execute(Plans(1)).ok());
    }
    EXPECT_TRUE(OpenFdsGoBackTo(num_fds_serving));
    EXPECT_TRUE(runtime_directory.empty());
  }
  EXPECT_TRUE(runtime_directory.empty());
  EXPECT_TRUE(OpenFdsGoBackTo(kNumFdsOfThisProgram));
}

TEST(ProcessEngineGroupTest, CancelUnblocksAStart) {
  ProcessEngineGroup group(Options(Fault("hang_in_load")));
  std::thread canceller([&] {
    while (group.rank_processes()[1].weights_loaded_ratio < 0.4) std::this_thread::yield();
    group.Cancel();
  });
  EXPECT_EQ(group.Start().code(), absl::StatusCode::kCancelled);
  canceller.join();
  EXPECT_EQ(group.Restart().code(), absl::StatusCode::kCancelled);
}

TEST(ProcessEngineGroupTest, CancelUnblocksAStep) {
  ProcessEngineGroup group(Options(Fault("hang_in_step", 1)));
  ASSERT_EQ(group.Start(), absl::OkStatus());
  std::thread canceller([&] { group.Cancel(); });
  EXPECT_EQ(group.Execute(Plans(1)).status().code(), absl::StatusCode::kCancelled);
  canceller.join();
}

TEST(ProcessEngineGroupTest, AnEngineThatDoesNotEndIsKilledAfterABoundedWait) {
  ProcessEngineGroupOptions options = Options(Fault("hang_in_step", 1));
  options.step_timeout = absl::Milliseconds(100);
  options.stop_timeout = absl::Milliseconds(100);
  pid_t pid = -1;
  {
    ProcessEngineGroup group(options);
    ASSERT_EQ(group.Start(), absl::OkStatus());
    EXPECT_FALSE(group.Execute(Plans(1)).ok());
    pid = group.rank_processes()[1].pid;
  }
  EXPECT_TRUE(IsGone(pid));
}

TEST(ProcessEngineGroupTest, ExecutingBeforeStartingIsRefused) {
  ProcessEngineGroup group(Options());
  EXPECT_EQ(group.Execute(Plans(1)).status().code(), absl::StatusCode::kFailedPrecondition);
}

/// Runs supervisor_main until it is ready; returns the pids of its engines.
std::vector<pid_t> AwaitEngines(std::unique_ptr<ChildProcess>& supervisor) {
  absl::Mutex mutex;
  std::vector<pid_t> pids;
  bool ready = false;
  absl::StatusOr<std::unique_ptr<ChildProcess>> process =
      ChildProcess::Spawn({.binary = MOED_BINARY_DIR "/supervisor-under-test",
                           .args = {MOED_BINARY_DIR "/fake-engine"},
                           .on_line =
                               [&](absl::string_view line) {
                                 absl::MutexLock lock(&mutex);
                                 if (line.substr(0, 4) == "pid ")
                                   pids.push_back(std::stoi(std::string(line.substr(4))));
                                 ready = ready || line == "ready";
                               },
                           .on_end = [](const ProcessEnd&) {}});
  EXPECT_TRUE(process.ok()) << process.status();
  absl::MutexLock lock(&mutex);
  mutex.Await(absl::Condition(&ready));
  supervisor = *std::move(process);
  return pids;
}

TEST(ProcessEngineGroupTest, KillingTheSupervisorLeavesNoEngineAndNoFile) {
  const RuntimeDirectory runtime_directory;
  ASSERT_EQ(::prctl(PR_SET_CHILD_SUBREAPER, 1), 0);  // its orphans become ours
  std::unique_ptr<ChildProcess> supervisor;
  const std::vector<pid_t> engines = AwaitEngines(supervisor);
  ASSERT_EQ(engines.size(), 2u);
  supervisor->Signal(SIGKILL);
  ASSERT_TRUE(supervisor->WaitForEnd(absl::Seconds(30)).has_value());
  for (const pid_t pid : engines) {
    int status = 0;
    EXPECT_EQ(::waitpid(pid, &status, 0), pid);  // would hang if the engine lived on
  }
  EXPECT_TRUE(runtime_directory.empty());
}

}  // namespace
}  // namespace moed
