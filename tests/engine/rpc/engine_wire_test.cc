#include <gmock/gmock.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "config/base/status_macros.h"
#include "engine/rpc/conversion.h"
#include "engine/rpc/engine_clients.h"
#include "engine/rpc/engine_service.h"
#include "tests/fakes/fake_engine.h"

namespace moed {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kLong = absl::Seconds(30);

/// An engine whose answers a test decides.
class ScriptedEngine final : public Engine {
 public:
  using Execution = std::function<absl::StatusOr<StepResult>(const StepPlan&)>;

  explicit ScriptedEngine(Execution execute) : execute_(std::move(execute)) {}
  const EngineInfo& info() const override { return info_; }
  absl::StatusOr<StepResult> Execute(const StepPlan& plan) override { return execute_(plan); }

 private:
  const EngineInfo info_;
  const Execution execute_;
};

EngineFactory Scripted(ScriptedEngine::Execution execute) {
  return
      [execute](const EngineConfig&, const LoadHooks&) -> absl::StatusOr<std::unique_ptr<Engine>> {
        return std::make_unique<ScriptedEngine>(execute);
      };
}

EngineFactory Fake() {
  return [](const EngineConfig& config, const LoadHooks& hooks) {
    return CreateFakeEngine(config, hooks, {});
  };
}

/// An EngineService of this process, on a socket in a directory of its own.
class ServedEngine {
 public:
  enum class Listening { kNow, kLater };

  explicit ServedEngine(EngineFactory factory, Listening listening = Listening::kNow)
      : service_(std::move(factory), [this](absl::Status status) {
          end_status_ = std::move(status);
          session_end_.Notify();
        }) {
    EXPECT_NE(::mkdtemp(directory_.data()), nullptr);
    if (listening == Listening::kNow) Listen();
  }

  void Listen() {
    grpc::ServerBuilder builder;
    builder.SetMaxReceiveMessageSize(kMaxEngineMessageBytes);
    builder.AddListeningPort(address(), grpc::InsecureServerCredentials());
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
  }

  ~ServedEngine() {
    server_->Shutdown(std::chrono::system_clock::now());
    server_->Wait();
    ::unlink((directory_ + "/socket").c_str());
    ::rmdir(directory_.c_str());
  }

  std::string address() const { return "unix:" + directory_ + "/socket"; }

  absl::Status WaitForSessionEnd() {
    session_end_.WaitForNotification();
    return end_status_;
  }

 private:
  std::string directory_ = "/tmp/moed-wire-XXXXXX";
  absl::Notification session_end_;
  absl::Status end_status_;
  EngineService service_;
  std::unique_ptr<grpc::Server> server_;
};

EngineConfig Config(int32_t rank, int32_t num_ranks) {
  return {.rank = rank, .placement = ExpertPlacement::Linear(2, 4, num_ranks), .num_blocks = 10};
}

template <typename T>
T Expect(EngineClients& clients) {
  std::optional<EngineEvent> event = clients.Next(kLong);
  EXPECT_TRUE(event.has_value());
  EXPECT_TRUE(std::holds_alternative<T>(event->what)) << event->what.index();
  return std::get<T>(event->what);
}

/// Configures one engine and skips its progress.
EngineInfo Load(EngineClients& clients) {
  EXPECT_TRUE(clients.SendConfig(0, Config(0, 1)).ok());
  while (true) {
    std::optional<EngineEvent> event = clients.Next(kLong);
    if (!event.has_value()) return {};
    if (std::holds_alternative<LoadProgress>(event->what)) continue;
    EXPECT_TRUE(std::holds_alternative<EngineInfo>(event->what));
    return std::get<EngineInfo>(event->what);
  }
}

TEST(EngineWireTest, LoadingReportsProgressAndThenTheInfo) {
  ServedEngine engine(Fake());
  EngineClients clients({engine.address()});
  ASSERT_TRUE(clients.SendConfig(0, Config(0, 1)).ok());
  EXPECT_EQ(Expect<LoadProgress>(clients).done_bytes, 500);
  const LoadProgress last = Expect<LoadProgress>(clients);
  EXPECT_EQ(last.done_bytes, last.total_bytes);
  EXPECT_EQ(Expect<EngineInfo>(clients).num_blocks, 10);
}

/// Joins a group before it loads: rank 0 names it.
EngineFactory Joining(std::string& joined) {
  return [&joined](const EngineConfig& config,
                   const LoadHooks& hooks) -> absl::StatusOr<std::unique_ptr<Engine>> {
    const std::string own_name = config.rank == 0 ? std::string("\0a name", 7) : "";
    MOED_ASSIGN_OR_RETURN(joined, hooks.share_group_name(own_name));
    return CreateFakeEngine(config, hooks, {});
  };
}

TEST(EngineWireTest, TheNameOfTheGroupGoesFromRank0ToTheOthersWhileTheyLoad) {
  std::string joined[2];
  ServedEngine rank0(Joining(joined[0])), rank1(Joining(joined[1]));
  EngineClients clients({rank0.address(), rank1.address()});
  for (const int32_t rank : {0, 1}) ASSERT_TRUE(clients.SendConfig(rank, Config(rank, 2)).ok());
  int num_loaded = 0;
  while (num_loaded < 2) {
    const std::optional<EngineEvent> event = clients.Next(kLong);
    ASSERT_TRUE(event.has_value());
    if (const auto* group = std::get_if<GroupName>(&event->what)) {
      EXPECT_EQ(event->rank, 0);
      ASSERT_TRUE(clients.SendGroupName(1, *group).ok());
    }
    num_loaded += std::holds_alternative<EngineInfo>(event->what);
  }
  EXPECT_EQ(joined[0], std::string("\0a name", 7));
  EXPECT_EQ(joined[1], joined[0]);
}

TEST(EngineWireTest, AnotherMessageThanTheNameEndsTheSession) {
  std::string joined;
  ServedEngine engine(Joining(joined));
  EngineClients clients({engine.address()});
  EngineConfig config = Config(1, 2);
  ASSERT_TRUE(clients.SendConfig(0, config).ok());
  ASSERT_TRUE(clients.SendPlan(0, {}).ok());
  const absl::Status status = Expect<absl::Status>(clients);
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("joining the group of ranks"));
}

TEST(EngineWireTest, PlansAndResultsAlternate) {
  ServedEngine engine(Fake());
  EngineClients clients({engine.address()});
  Load(clients);
  for (uint64_t step = 1; step <= 100; ++step) {
    const Slice slice{.sequence_id = step, .token_ids = {1, 2}, .sample = SampleRequest{}};
    ASSERT_TRUE(clients.SendPlan(0, {.step_id = step, .slices = {slice}}).ok());
    const StepResult result = Expect<StepResult>(clients);
    ASSERT_EQ(result.step_id, step);
    ASSERT_EQ(result.sampled.at(0).token_id, FakeToken(slice));
  }
}

TEST(EngineWireTest, EverythingOfAnEngineHappensOnOneThread) {
  std::vector<std::thread::id> threads;
  ServedEngine engine(
      [&threads](const EngineConfig&, const LoadHooks&) -> absl::StatusOr<std::unique_ptr<Engine>> {
        threads.push_back(std::this_thread::get_id());
        return std::make_unique<ScriptedEngine>([&threads](const StepPlan&) {
          threads.push_back(std::this_thread::get_id());
          return StepResult{};
        });
      });
  {
    EngineClients clients({engine.address()});
    Load(clients);
    for (int step = 0; step < 5; ++step) {
      ASSERT_TRUE(clients.SendPlan(0, {}).ok());
      Expect<StepResult>(clients);
    }
  }
  engine.WaitForSessionEnd().IgnoreError();
  EXPECT_EQ(threads.size(), 6u);
  EXPECT_THAT(threads, ::testing::Each(threads.front()));
}

TEST(EngineWireTest, AnErrorOfExecuteArrivesWithItsMessageIntact) {
  const std::string message = "rank 1: step 12, layer 3, dispatch: \"peer\" 2 is missing\n\xc3\xa4";
  ServedEngine engine(Scripted([&](const StepPlan&) { return absl::AbortedError(message); }));
  EngineClients clients({engine.address()});
  Load(clients);
  ASSERT_TRUE(clients.SendPlan(0, {}).ok());
  EXPECT_EQ(Expect<absl::Status>(clients), absl::AbortedError(message));
  EXPECT_EQ(engine.WaitForSessionEnd(), absl::AbortedError(message));
}

TEST(EngineWireTest, AVeryLongErrorMessageIsCutAndNotLost) {
  const std::string message(100000, '%');
  ServedEngine engine(Scripted([&](const StepPlan&) { return absl::InternalError(message); }));
  EngineClients clients({engine.address()});
  Load(clients);
  ASSERT_TRUE(clients.SendPlan(0, {}).ok());
  const absl::Status status = Expect<absl::Status>(clients);
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("%%%%"));
}

TEST(EngineWireTest, AnErrorOfLoadingEndsTheSession) {
  ServedEngine engine(
      [](const EngineConfig&, const LoadHooks&) -> absl::StatusOr<std::unique_ptr<Engine>> {
        return absl::InvalidArgumentError("lm_head.weight is missing");
      });
  EngineClients clients({engine.address()});
  ASSERT_TRUE(clients.SendConfig(0, Config(0, 1)).ok());
  EXPECT_EQ(Expect<absl::Status>(clients), absl::InvalidArgumentError("lm_head.weight is missing"));
}

TEST(EngineWireTest, AnInvalidConfigurationIsRefusedBeforeAnythingIsLoaded) {
  bool called = false;
  ServedEngine engine(
      [&](const EngineConfig&, const LoadHooks&) -> absl::StatusOr<std::unique_ptr<Engine>> {
        called = true;
        return absl::InternalError("called");
      });
  EngineClients clients({engine.address()});
  ASSERT_TRUE(clients.SendConfig(0, Config(/*rank=*/5, /*num_ranks=*/2)).ok());
  EXPECT_EQ(Expect<absl::Status>(clients).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(called);
}

TEST(EngineWireTest, ASecondSessionIsRefused) {
  ServedEngine engine(Fake());
  EngineClients first({engine.address()});
  Load(first);
  EngineClients second({engine.address()});
  ASSERT_TRUE(second.SendConfig(0, Config(0, 1)).ok());
  EXPECT_EQ(Expect<absl::Status>(second).code(), absl::StatusCode::kFailedPrecondition);
}

TEST(EngineWireTest, AnEngineThatListensLaterIsWaitedFor) {
  ServedEngine engine(Fake(), ServedEngine::Listening::kLater);
  EngineClients clients({engine.address()});
  ASSERT_TRUE(clients.SendConfig(0, Config(0, 1)).ok());
  EXPECT_FALSE(clients.Next(absl::Milliseconds(50)).has_value());
  engine.Listen();
  EXPECT_EQ(Expect<LoadProgress>(clients).done_bytes, 500);
}

TEST(EngineWireTest, CancellingFromAnotherThreadUnblocksAStepAndStopsLoading) {
  absl::Notification loading;
  ServedEngine engine(
      [&](const EngineConfig&, const LoadHooks& hooks) -> absl::StatusOr<std::unique_ptr<Engine>> {
        loading.Notify();
        while (!hooks.cancelled()) std::this_thread::yield();
        return absl::CancelledError("told to stop");
      });
  EngineClients clients({engine.address()});
  ASSERT_TRUE(clients.SendConfig(0, Config(0, 1)).ok());
  std::thread canceller([&] {
    loading.WaitForNotification();
    clients.Cancel();
  });
  EXPECT_EQ(Expect<absl::Status>(clients).code(), absl::StatusCode::kCancelled);
  canceller.join();
  EXPECT_EQ(engine.WaitForSessionEnd(), absl::CancelledError("told to stop"));
}

TEST(EngineWireTest, ClosingTheClientEndsTheSession) {
  ServedEngine engine(Fake());
  {
    EngineClients clients({engine.address()});
    Load(clients);
  }
  EXPECT_TRUE(engine.WaitForSessionEnd().ok());
}

TEST(EngineWireTest, APlanWithManyTokenCountsFits) {
  ServedEngine engine(Fake());
  EngineClients clients({engine.address()});
  Load(clients);
  Slice slice{.token_ids = {1}, .sample = SampleRequest{}};
  slice.sample->token_counts.resize(1 << 20, {.token_id = 1, .num_in_prompt = 1});
  ASSERT_TRUE(clients.SendPlan(0, {.step_id = 1, .slices = {slice, slice}}).ok());
  EXPECT_EQ(Expect<StepResult>(clients).sampled.size(), 2u);
}

TEST(EngineWireTest, AMessageBeyondTheLimitIsRefusedByTheSender) {
  ServedEngine engine(Fake());
  EngineClients clients({engine.address()});
  Load(clients);
  Slice slice;
  slice.token_ids = std::vector<int32_t>(kMaxEngineMessageBytes / 10 + 1, -1);  // ten bytes each
  EXPECT_EQ(clients.SendPlan(0, {.slices = {slice}}).code(), absl::StatusCode::kInvalidArgument);
}

TEST(EngineWireTest, TheFirstRankToFailIsSeenFirst) {
  absl::Notification release;
  ServedEngine stuck(Scripted([&](const StepPlan&) {
    release.WaitForNotification();
    return StepResult{};
  }));
  ServedEngine failing(Scripted([](const StepPlan&) { return absl::InternalError("broken"); }));
  EngineClients clients({stuck.address(), failing.address()});
  int num_infos = 0;
  for (int32_t rank = 0; rank < 2; ++rank) {
    ASSERT_TRUE(clients.SendConfig(rank, Config(rank, 2)).ok());
  }
  for (; num_infos < 2; ++num_infos) Expect<EngineInfo>(clients);
  for (int32_t rank = 0; rank < 2; ++rank) ASSERT_TRUE(clients.SendPlan(rank, {}).ok());
  const std::optional<EngineEvent> event = clients.Next(kLong);
  ASSERT_TRUE(event.has_value());
  EXPECT_EQ(event->rank, 1);
  release.Notify();
}

}  // namespace
}  // namespace moed
