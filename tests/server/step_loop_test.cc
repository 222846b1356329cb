#include "server/step_loop.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "tests/server/step_loop_fixture.h"

namespace moed {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST_F(StepLoopTest, ARequestStreamsItsTokensTextAndUsage) {
  StartServing();
  const Request request = MakeRequest("a", 10, 5);
  const auto sink = Submit(request);
  ASSERT_TRUE(sink->AwaitEnd().ok());
  EXPECT_EQ(sink->tokens(), Expected(request));
  EXPECT_EQ(sink->text(), Words(Expected(request)));
  EXPECT_EQ(sink->finished().at(0).reason, FinishReason::kLength);
  EXPECT_EQ(sink->finished().at(0).num_generated_tokens, 5);
  const UsageEvent usage = sink->usage();
  EXPECT_EQ(usage.num_prompt_tokens, 10);
  EXPECT_EQ(usage.num_generated_tokens, 5);
  EXPECT_GE(usage.queue_time, absl::ZeroDuration());
  EXPECT_GE(usage.time_to_first_token, usage.queue_time);
  EXPECT_GE(usage.total_time, usage.time_to_first_token);
}

TEST_F(StepLoopTest, EverySequenceOfARequestFinishesBeforeTheUsage) {
  engine_options_.num_ranks = 2;
  StartServing();
  Request request = MakeRequest("a", 9, 4);
  request.num_sequences = 3;
  const auto sink = Submit(request);
  ASSERT_TRUE(sink->AwaitEnd().ok());
  EXPECT_EQ(sink->finished().size(), 3u);
  for (int32_t index = 0; index < 3; ++index) {
    EXPECT_EQ(sink->tokens(index), Expected(request, index));
  }
  EXPECT_EQ(sink->usage().num_generated_tokens, 12);
}

TEST_F(StepLoopTest, AStopStringEndsItsSequenceAndFreesItsBlocks) {
  StartServing();
  Request request = MakeRequest("a", 10, 50);
  const std::vector<int32_t> expected = Expected(request);
  request.stopping.stop = {Words({expected[2], expected[3]})};
  const auto sink = Submit(request);
  ASSERT_TRUE(sink->AwaitEnd().ok());
  EXPECT_EQ(sink->text(), Words({expected[0], expected[1]}));
  EXPECT_EQ(sink->tokens().size(), 4u);
  EXPECT_EQ(std::get<std::string>(sink->finished().at(0).matched), request.stopping.stop[0]);
  AwaitIdle();
  EXPECT_EQ(loop_->stats().ranks[0].num_free_blocks, engine_options_.num_blocks);
}

TEST_F(StepLoopTest, NothingIsAcceptedBeforeTheEnginesAreUp) {
  Create();
  EXPECT_EQ(SubmitCode(MakeRequest("a", 1, 1)), absl::StatusCode::kUnavailable);
  EXPECT_THAT(metrics_.rejections(), ElementsAre("loading"));
  EXPECT_EQ(loop_->stats().state, ServingState::kLoading);
}

TEST_F(StepLoopTest, ARequestThatCanNeverFitIsRefusedAtOnce) {
  engine_options_.num_blocks = 4;
  StartServing();
  EXPECT_EQ(SubmitCode(MakeRequest("a", 10, 8)), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(loop_->num_requests(), 0);
}

TEST_F(StepLoopTest, AFullQueueRefusesWithResourceExhausted) {
  engine_options_.max_sequences_per_step = 1;
  options_.max_waiting_requests = 2;
  StartServing();
  std::shared_ptr<TestSink> b, c;
  const auto a = SubmitAndBlock(MakeRequest("a", 3, 3), [&] {
    b = Submit(MakeRequest("b", 3, 3));
    c = Submit(MakeRequest("c", 3, 3));
    EXPECT_EQ(SubmitCode(MakeRequest("d", 3, 3)), absl::StatusCode::kResourceExhausted);
    EXPECT_EQ(loop_->num_requests(), 3);
  });
  EXPECT_TRUE(a->AwaitEnd().ok() && b->AwaitEnd().ok() && c->AwaitEnd().ok());
  EXPECT_THAT(metrics_.rejections(), ElementsAre("queue_full"));
}

TEST_F(StepLoopTest, CancellingFreesTheBlocksWithinOneStep) {
  StartServing();
  int64_t steps_at_cancel = 0;
  const auto sink = SubmitAndBlock(MakeRequest("a", 10, 50), [&] {
    loop_->Cancel("a", absl::CancelledError("the client went away"));
    steps_at_cancel = engines_->num_steps();
  });
  EXPECT_EQ(sink->AwaitEnd(), absl::CancelledError("the client went away"));
  AwaitIdle();
  EXPECT_EQ(engines_->num_steps(), steps_at_cancel);
  EXPECT_EQ(loop_->stats().ranks[0].num_free_blocks, engine_options_.num_blocks);
  EXPECT_EQ(metrics_.results()["cancelled"], 1);
  loop_->Cancel("a", absl::CancelledError("again"));
  loop_->Cancel("nobody", absl::CancelledError("again"));
  EXPECT_TRUE(Submit(MakeRequest("a", 3, 2))->AwaitEnd().ok());
}

TEST_F(StepLoopTest, ADeadlineThatIsOverEndsAQueuedRequestBeforeItRuns) {
  StartServing();
  Request request = MakeRequest("a", 10, 5);
  request.deadline = absl::Now() - absl::Seconds(1);
  EXPECT_EQ(Submit(request)->AwaitEnd().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(engines_->num_steps(), 0);
}

TEST_F(StepLoopTest, ADeadlineEndsARunningRequest) {
  StartServing();
  Request request = MakeRequest("a", 10, 50);
  request.deadline = absl::Now() + absl::Seconds(1);
  const auto sink = SubmitAndBlock(request, [&] {
    while (absl::Now() <= request.deadline) std::this_thread::yield();
  });
  EXPECT_EQ(sink->AwaitEnd().code(), absl::StatusCode::kDeadlineExceeded);
  AwaitIdle();
  EXPECT_EQ(engines_->num_steps(), 1);
  EXPECT_EQ(loop_->stats().ranks[0].num_free_blocks, engine_options_.num_blocks);
}

TEST_F(StepLoopTest, ASlowClientIsCutOffAndTheOthersGoOn) {
  StartServing();
  auto slow = std::make_shared<TestSink>();
  slow->RefuseAfter(3);
  Request request = MakeRequest("slow", 10, 20);
  request.num_sequences = 2;
  ASSERT_TRUE(loop_->Submit(request, slow).ok());
  const auto other = Submit(MakeRequest("other", 5, 20));
  EXPECT_EQ(slow->AwaitEnd().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(other->AwaitEnd().ok());
}

TEST_F(StepLoopTest, ADuplicateIdFailsAndLeavesTheFirstAlone) {
  StartServing();
  std::shared_ptr<TestSink> second;
  const auto first =
      SubmitAndBlock(MakeRequest("a", 3, 3), [&] { second = Submit(MakeRequest("a", 3, 3)); });
  EXPECT_EQ(second->AwaitEnd().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(first->AwaitEnd().ok());
}

TEST_F(StepLoopTest, AFailedStepFailsWhatRanAndKeepsWhatOnlyWaited) {
  engine_options_.max_sequences_per_step = 1;
  StartServing();
  engines_->FailAtStep(2, absl::AbortedError("rank 1 is gone in step 2"));
  const Request queued = MakeRequest("b", 7, 4);
  std::shared_ptr<TestSink> b;
  const auto a = SubmitAndBlock(MakeRequest("a", 10, 50), [&] { b = Submit(queued); });
  const absl::Status status = a->AwaitEnd();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(status.message(), HasSubstr("rank 1 is gone in step 2"));
  EXPECT_TRUE(b->AwaitEnd().ok());
  EXPECT_EQ(b->tokens(), Expected(queued));
  EXPECT_THAT(metrics_.states(), ElementsAre(ServingState::kLoading, ServingState::kServing,
                                             ServingState::kRecovering, ServingState::kServing));
  EXPECT_EQ(loop_->stats().num_group_restarts, 1);
}

TEST_F(StepLoopTest, AResultThatDoesNotFitIsTreatedAsALostGroup) {
  engine_options_.vocab_size = 2 * kVocab;  // the engine samples ids that the model does not have
  StartServing();
  Request request = MakeRequest("a", 5, 50);
  request.sampling.allowed_token_ids = {2 * kVocab - 1};
  EXPECT_THAT(Submit(request)->AwaitEnd().message(), HasSubstr("sampled token 199"));
  metrics_.AwaitState(ServingState::kServing, 2);
}

TEST_F(StepLoopTest, ADeathWhileIdleRestartsTheEngines) {
  StartServing();
  engines_->Die();
  metrics_.AwaitState(ServingState::kServing, 2);
  const Request request = MakeRequest("a", 10, 5);
  const auto sink = Submit(request);
  EXPECT_TRUE(sink->AwaitEnd().ok());
  EXPECT_EQ(sink->tokens(), Expected(request));
}

TEST_F(StepLoopTest, FailedRestartsAreRepeated) {
  StartServing();
  engines_->FailRestarts(4);
  engines_->Die();
  metrics_.AwaitState(ServingState::kServing, 2);
  EXPECT_EQ(engines_->num_restarts(), 5);
  EXPECT_TRUE(loop_->fatal_status().ok());
}

TEST_F(StepLoopTest, TooManyFailedRestartsEndTheLoopAndEverythingInIt) {
  engine_options_.max_sequences_per_step = 1;
  StartServing();
  engines_->FailAtStep(2, absl::AbortedError("gone"));
  engines_->FailRestarts(100);
  std::shared_ptr<TestSink> b;
  const auto a =
      SubmitAndBlock(MakeRequest("a", 10, 50), [&] { b = Submit(MakeRequest("b", 7, 4)); });
  EXPECT_EQ(a->AwaitEnd().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(b->AwaitEnd().code(), absl::StatusCode::kUnavailable);
  metrics_.AwaitState(ServingState::kStopped);
  EXPECT_EQ(engines_->num_restarts(), 5);
  EXPECT_THAT(loop_->fatal_status().message(), HasSubstr("could not be restarted in 5 attempts"));
  EXPECT_EQ(SubmitCode(MakeRequest("c", 1, 1)), absl::StatusCode::kUnavailable);
  EXPECT_EQ(loop_->num_requests(), 0);
}

TEST_F(StepLoopTest, EnginesThatDoNotStartEndTheLoop) {
  Create();
  engines_->FailStart(absl::NotFoundError("no such model"));
  loop_->Start();
  metrics_.AwaitState(ServingState::kStopped);
  EXPECT_EQ(loop_->fatal_status(), absl::NotFoundError("no such model"));
  EXPECT_EQ(SubmitCode(MakeRequest("c", 1, 1)), absl::StatusCode::kUnavailable);
}

TEST_F(StepLoopTest, StoppingAStepThatHangsEndsWhatIsLeft) {
  engine_options_.max_sequences_per_step = 1;
  StartServing();
  engines_->HangAtStep(1);
  const auto a = Submit(MakeRequest("a", 10, 50));
  engines_->AwaitHang();
  const auto b = Submit(MakeRequest("b", 10, 50));
  loop_->Stop(absl::UnavailableError("shutting down"));
  EXPECT_EQ(a->AwaitEnd(), absl::UnavailableError("shutting down"));
  EXPECT_EQ(b->AwaitEnd(), absl::UnavailableError("shutting down"));
  EXPECT_EQ(loop_->stats().state, ServingState::kStopped);
  EXPECT_EQ(SubmitCode(MakeRequest("c", 1, 1)), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(loop_->fatal_status().ok());
}

TEST_F(StepLoopTest, StoppingARestartThatHangsWorks) {
  StartServing();
  engines_->HangRestart();
  engines_->Die();
  engines_->AwaitHang();
  const auto sink = Submit(MakeRequest("a", 3, 3));  // accepted while recovering
  loop_->Stop(absl::UnavailableError("shutting down"));
  EXPECT_EQ(sink->AwaitEnd(), absl::UnavailableError("shutting down"));
}

TEST_F(StepLoopTest, StoppingDuringTheBackoffDoesNotWaitForIt) {
  options_.restart_backoff = absl::Hours(1);
  StartServing();
  engines_->FailRestarts(1);
  engines_->Die();
  metrics_.AwaitState(ServingState::kRecovering);
  loop_->Stop(absl::UnavailableError("shutting down"));
  EXPECT_EQ(loop_->stats().state, ServingState::kStopped);
}

TEST_F(StepLoopTest, AnIdleLoopStopsAndALoopThatNeverStartedToo) {
  StartServing();
  loop_->Stop(absl::UnavailableError("shutting down"));
  loop_->Stop(absl::UnavailableError("again"));
  Create();
  loop_->Stop(absl::UnavailableError("shutting down"));
}

TEST_F(StepLoopTest, DrainingFinishesWhatWasAcceptedAndRefusesTheRest) {
  engine_options_.max_sequences_per_step = 1;
  StartServing();
  std::shared_ptr<TestSink> b;
  const auto a = SubmitAndBlock(MakeRequest("a", 3, 20), [&] {
    b = Submit(MakeRequest("b", 3, 20));
    loop_->BeginDrain();
    EXPECT_EQ(SubmitCode(MakeRequest("c", 3, 3)), absl::StatusCode::kUnavailable);
  });
  EXPECT_TRUE(a->AwaitEnd().ok() && b->AwaitEnd().ok());
  metrics_.AwaitState(ServingState::kDraining);
  AwaitIdle();
  EXPECT_EQ(loop_->stats().state, ServingState::kDraining);
  EXPECT_THAT(metrics_.rejections(), ElementsAre("draining"));
}

TEST_F(StepLoopTest, AnIdleLoopTellsThatItDrainsAndStillDoesAfterARestart) {
  StartServing();
  loop_->BeginDrain();
  loop_->BeginDrain();  // as a preStop hook and a signal do: the loop may not have woken yet
  metrics_.AwaitState(ServingState::kDraining);
  engines_->Die();
  metrics_.AwaitState(ServingState::kDraining, 2);
  EXPECT_THAT(metrics_.states(),
              ElementsAre(ServingState::kLoading, ServingState::kServing, ServingState::kDraining,
                          ServingState::kRecovering, ServingState::kDraining));
}

TEST_F(StepLoopTest, StatsAndMetricsAddUp) {
  engine_options_.num_ranks = 2;
  StartServing();
  const auto a = Submit(MakeRequest("a", 10, 6));
  const auto b = Submit(MakeRequest("b", 12, 6));
  ASSERT_TRUE(a->AwaitEnd().ok() && b->AwaitEnd().ok());
  AwaitIdle();
  const ServerStats stats = loop_->stats();
  EXPECT_EQ(stats.state, ServingState::kServing);
  EXPECT_EQ(stats.steps.num_steps, engines_->num_steps());
  EXPECT_EQ(stats.num_prompt_tokens, 22);
  EXPECT_EQ(stats.num_generated_tokens, 12);
  EXPECT_EQ(stats.num_finished_requests, 2);
  EXPECT_EQ(stats.num_requests + stats.num_running_sequences + stats.num_waiting_sequences, 0);
  EXPECT_GT(stats.steps.plan_seconds, 0);
  EXPECT_GT(stats.steps.times.total, 0);
  EXPECT_EQ(metrics_.results()["length"], 2);
  EXPECT_EQ(metrics_.num_intervals(), 10);
  int64_t num_rows = 0, num_expert_tokens = 0;
  for (const RankStats& rank : stats.ranks) num_rows += rank.num_expert_rows;
  for (const int64_t count : stats.tokens_per_expert) num_expert_tokens += count;
  EXPECT_EQ(num_rows, int64_t{metrics_.num_tokens()} * engine_options_.num_moe_layers);
  EXPECT_EQ(num_expert_tokens, num_rows);
  loop_->ResetExpertStats();
  EXPECT_EQ(loop_->stats().tokens_per_expert,
            std::vector<int64_t>(stats.tokens_per_expert.size(), 0));
  for (const RankStats& rank : loop_->stats().ranks) EXPECT_EQ(rank.num_expert_rows, 0);
  EXPECT_EQ(loop_->stats().dispatch_bytes + loop_->stats().combine_bytes, 0);
}

TEST_F(StepLoopTest, RequestsOfManyThreadsAllEndOnceThroughFailuresOfTheEngines) {
  engine_options_ = {.num_ranks = 3, .num_blocks = 20, .max_sequences_per_step = 4};
  options_.max_waiting_requests = 1000;
  StartServing();
  std::atomic<int> num_ok = 0, num_lost = 0, num_cancelled = 0;
  const auto client = [&](int number) {
    for (int i = 0; i < 40; ++i) {
      Request request = MakeRequest(std::to_string(number * 1000 + i), 1 + i % 20, 1 + i % 30);
      request.num_sequences = 1 + i % 3;
      request.priority = i % 2;
      const auto sink = Submit(request);
      if (i % 7 == 0) loop_->Cancel(request.id, absl::CancelledError("enough"));
      if (number == 0 && i % 10 == 5) {
        engines_->FailAtStep(engines_->num_steps() + 3, absl::AbortedError("lost"));
      }
      if (number == 1 && i % 10 == 9) engines_->Die();
      const absl::Status status = sink->AwaitEnd();
      if (status.ok()) {
        ++num_ok;
        for (int32_t index = 0; index < request.num_sequences; ++index) {
          EXPECT_EQ(sink->tokens(index), Expected(request, index));
        }
      }
      num_lost += absl::IsUnavailable(status) ? 1 : 0;
      num_cancelled += absl::IsCancelled(status) ? 1 : 0;
    }
  };
  std::vector<std::thread> threads;
  for (int number = 0; number < 6; ++number) threads.emplace_back(client, number);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(num_ok + num_lost + num_cancelled, 240);
  EXPECT_GT(num_ok, 100);
  AwaitIdle();
  EXPECT_GT(loop_->stats().num_group_restarts, 0);
}

}  // namespace
}  // namespace moed
