#include "client/load/stream/load_run.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <thread>

#include "client/load/report/run_summary.h"
#include "tests/client/load/instant_server.h"

namespace moed::load {
namespace {

using ::testing::Each;

constexpr double kMs = 1e6;

Distribution Always(double value) { return Distribution::Always(value); }

/// One server, and runs against it.
class LoadRunTest : public ::testing::Test {
 protected:
  void Serve(const InstantServerOptions& options) {
    server_ = std::make_unique<InstantServer>(options);
    ConnectionFlags flags;
    flags.server = server_->address();
    flags.separate = true;
    connections_.resize(1);
    connections_[0].push_back(Connection::Create(flags).value());
    connections_[0].push_back(Connection::Create(flags).value());
  }

  static RandomPrompts Prompts(double output_tokens) {
    RandomPrompts::Params params;
    params.tokens.vocab_size = 5000;
    params.lengths = {.input = Always(16), .output = Always(output_tokens), .seed = 1};
    return RandomPrompts(params);
  }

  static RunPlan ClosedLoop(double slots, int64_t num_requests) {
    RunPlan plan;
    plan.slots = RateSchedule::Constant(slots);
    plan.arrivals = std::make_unique<FixedArrivals>(SlotStarts(*plan.slots, 0));
    plan.max_requests = num_requests;
    return plan;
  }

  static RunPlan OpenLoop(const char* schedule) {
    RunPlan plan;
    plan.arrivals = std::make_unique<RateArrivals>(RateArrivals::Params{
        .schedule = RateSchedule::Parse(schedule).value(), .shape = GapShape::kConstant});
    return plan;
  }

  RunResult Run(RunPlan plan, double output_tokens = 4) {
    const RandomPrompts prompts = Prompts(output_tokens);
    LoadRun run({.plan = plan,
                 .prompts = prompts,
                 .options = options_,
                 .connections = connections_,
                 .live = live_});
    return run.Run();
  }

  static int64_t Count(const RunResult& result, RequestOutcome outcome) {
    int64_t count = 0;
    for (const RequestRecord& record : result.recording.records())
      count += record.outcome == outcome;
    return count;
  }

  StreamOptions options_;
  LiveCounts live_;
  std::unique_ptr<InstantServer> server_;
  std::vector<std::vector<std::unique_ptr<Connection>>> connections_;
};

TEST_F(LoadRunTest, AClosedLoopSendsTheExactNumberAndKeepsItsConcurrency) {
  Serve({});
  const RunResult result = Run(ClosedLoop(8, 500));
  EXPECT_EQ(Count(result, RequestOutcome::kCompleted), 500);
  EXPECT_EQ(server_->num_requests(), 500);
  const RunSummary summary = Summarize(result, {}, {});
  EXPECT_LE(summary.max_concurrent_requests, 8);
  EXPECT_EQ(summary.figures.num_output_tokens, 2000);
  EXPECT_EQ(summary.figures.num_input_tokens, 8000);
  EXPECT_EQ(live_.num_tokens, 2000);
}

TEST_F(LoadRunTest, AMessageOfSeveralTokensIsOneGap) {
  Serve({.tokens_per_message = 4});
  const RunResult result = Run(ClosedLoop(1, 10), 13);
  EXPECT_EQ(result.recording.itl().count(), 10 * 3);            // 4 messages of 4, 4, 4, 1 tokens
  EXPECT_EQ(result.recording.itl_per_token().count(), 10 * 9);  // without the first message's
}

TEST_F(LoadRunTest, AnOpenLoopSendsWhenItsScheduleSays) {
  Serve({});
  const RunResult result = Run(OpenLoop("100:0.5"));
  ASSERT_EQ(result.recording.records().size(), 51u);
  for (const RequestRecord& record : result.recording.records()) {
    EXPECT_NEAR(static_cast<double>(record.intended_ns), record.index * 10 * kMs, 1);
    EXPECT_GE(record.sent_ns, record.intended_ns);
  }
}

// A stall of 0.5 s hits one request as a closed loop sees it, and all that were due meanwhile as
// their users do.
TEST_F(LoadRunTest, AStallIsFeltByEveryRequestThatWasDueMeanwhile) {
  Serve({.service_s = 0.0005, .stall_at = 50, .stall_s = 0.5});
  RunPlan plan = OpenLoop("200:1");
  plan.max_concurrency = 1;
  const RunSummary summary = Summarize(Run(std::move(plan), 1), {}, {});
  ASSERT_EQ(summary.figures.num_completed, 201);
  EXPECT_LT(summary.figures.ttft_from_send.Percentile(90), 100 * kMs);
  EXPECT_GT(summary.figures.ttft.Percentile(90), 200 * kMs);
  const int64_t late = 201 - summary.figures.ttft.CountUpTo(static_cast<int64_t>(100 * kMs));
  EXPECT_GE(late, 70);  // 200 a second for 0.4 s
}

TEST_F(LoadRunTest, FailedRequestsAreCountedWithTheirReason) {
  Serve({.fail_every = 5});
  const RunResult result = Run(ClosedLoop(4, 20));
  EXPECT_EQ(Count(result, RequestOutcome::kFailed), 4);
  ASSERT_EQ(result.recording.errors().size(), 1u);
  EXPECT_EQ(result.recording.errors()[0], "RESOURCE_EXHAUSTED: the queue is full");
}

TEST_F(LoadRunTest, CancelsAfterTheGivenNumberOfTokens) {
  Serve({.token_interval_s = 0.002});
  options_.cancel_after_tokens = 3;
  options_.cancel_fraction = 0.5;
  const RunResult result = Run(ClosedLoop(8, 40), 200);
  const int64_t cancelled = Count(result, RequestOutcome::kCancelled);
  EXPECT_GT(cancelled, 8);
  EXPECT_LT(cancelled, 32);
  EXPECT_EQ(Count(result, RequestOutcome::kCompleted), 40 - cancelled);
  for (const RequestRecord& record : result.recording.records()) {
    if (record.outcome != RequestOutcome::kCancelled) continue;
    EXPECT_GE(record.num_output_tokens, 3);
    EXPECT_LT(record.num_output_tokens, 200);
  }
}

TEST_F(LoadRunTest, DeadlinesEndRequests) {
  Serve({.token_interval_s = 0.05});
  options_.deadline_s = 0.1;
  const RunResult result = Run(ClosedLoop(4, 8), 100);
  EXPECT_EQ(Count(result, RequestOutcome::kDeadline), 8);
}

TEST_F(LoadRunTest, SlowReadersTakeTheirTimeAndAreMarked) {
  Serve({});
  options_.slow_reader_s = 0.01;
  const RunResult result = Run(ClosedLoop(4, 4), 10);
  for (const RequestRecord& record : result.recording.records()) {
    EXPECT_TRUE(record.slow_reader);
    EXPECT_GT(static_cast<double>(record.end_ns - record.sent_ns), 100 * kMs);
  }
}

TEST_F(LoadRunTest, ATurnBringsAllThatWasSaidBefore) {
  Serve({});
  options_.keep_token_ids = true;
  options_.request.mutable_response()->set_return_token_ids(true);
  RunPlan plan = ClosedLoop(2, 24);
  plan.turns = Always(3);
  const RunResult result = Run(std::move(plan), 4);
  std::map<int32_t, std::vector<int32_t>> prompt_tokens;
  for (const RequestRecord& record : result.recording.records()) {
    prompt_tokens[record.turn].push_back(record.num_prompt_tokens);
  }
  ASSERT_EQ(prompt_tokens.size(), 3u);
  EXPECT_THAT(prompt_tokens[0], Each(16));
  EXPECT_THAT(prompt_tokens[1], Each(16 + 4 + 16));
  EXPECT_THAT(prompt_tokens[2], Each(16 + 4 + 16 + 4 + 16));
}

TEST_F(LoadRunTest, UsersThinkBetweenTurns) {
  Serve({});
  RunPlan plan = ClosedLoop(1, 5);
  plan.think_s = Always(0.02);
  const RunResult result = Run(std::move(plan));
  const auto& records = result.recording.records();
  ASSERT_EQ(records.size(), 5u);
  for (size_t i = 1; i < records.size(); ++i) {
    EXPECT_GE(static_cast<double>(records[i].sent_ns - records[i - 1].end_ns), 19.9 * kMs);
  }
}

TEST_F(LoadRunTest, AConversationThatOutgrowsTheContextBeginsAnewAndLongPromptsAreCut) {
  Serve({});
  options_.keep_token_ids = true;
  options_.request.mutable_response()->set_return_token_ids(true);
  RunPlan plan = ClosedLoop(1, 10);
  plan.turns = Always(10);
  plan.max_model_len = 45;
  const RunResult longer = Run(std::move(plan), 4);
  for (const RequestRecord& record : longer.recording.records()) {
    EXPECT_LE(record.num_prompt_tokens + 4, 45);
  }
  EXPECT_EQ(longer.num_cut_prompts, 0);
  RunPlan small = ClosedLoop(1, 3);
  small.max_model_len = 10;
  const RunResult cut = Run(std::move(small), 4);
  EXPECT_EQ(cut.num_cut_prompts, 3);
  EXPECT_EQ(cut.recording.records()[0].num_prompt_tokens, 6);
}

TEST_F(LoadRunTest, TheTimeIsOverAndTheRestIsAwaited) {
  Serve({.token_interval_s = 0.01});
  RunPlan plan = ClosedLoop(5, 0);
  plan.duration_s = 0.3;
  const RunResult result = Run(std::move(plan), 20);
  EXPECT_NEAR(result.sending_seconds, 0.3, 0.1);
  EXPECT_EQ(Count(result, RequestOutcome::kUnfinished), 0);
  EXPECT_EQ(Count(result, RequestOutcome::kCompleted), std::ssize(result.recording.records()));
}

TEST_F(LoadRunTest, WhatDoesNotEndInTimeIsCutOffAsUnfinished) {
  Serve({.token_interval_s = 0.05});
  RunPlan plan = ClosedLoop(3, 3);
  plan.drain_timeout_s = 0.2;
  const RunResult result = Run(std::move(plan), 10000);
  EXPECT_EQ(Count(result, RequestOutcome::kUnfinished), 3);
}

TEST_F(LoadRunTest, StopEndsARunFromAnotherThread) {
  Serve({.token_interval_s = 0.005});
  RunPlan plan = ClosedLoop(4, 0);
  plan.duration_s = 100;
  const RandomPrompts prompts = Prompts(100000);
  LoadRun run({.plan = plan,
               .prompts = prompts,
               .options = options_,
               .connections = connections_,
               .live = live_});
  std::thread stopper([&] {
    while (live_.num_tokens == 0) std::this_thread::yield();
    run.Stop();
  });
  const RunResult result = run.Run();
  stopper.join();
  EXPECT_TRUE(result.is_interrupted);
  EXPECT_EQ(Count(result, RequestOutcome::kUnfinished), 4);
}

TEST_F(LoadRunTest, AStepDownEndsSlots) {
  Serve({.token_interval_s = 0.002});
  RunPlan plan;
  plan.slots = RateSchedule::Parse("8:0.3,2:0.5").value();
  plan.arrivals = std::make_unique<FixedArrivals>(SlotStarts(*plan.slots, 0));
  plan.duration_s = 0.8;
  const RunResult result = Run(std::move(plan), 5);
  int64_t in_flight_late = 0;
  for (const RequestRecord& record : result.recording.records()) {
    in_flight_late += record.sent_ns <= 600 * kMs && record.end_ns > 600 * kMs;
  }
  EXPECT_LE(in_flight_late, 2);
}

TEST_F(LoadRunTest, AnotherTwoWorkersShareTheLoad) {
  Serve({});
  connections_.resize(2);
  ConnectionFlags flags;
  flags.server = server_->address();
  connections_[1].push_back(Connection::Create(flags).value());
  const RunResult result = Run(ClosedLoop(16, 400));
  EXPECT_EQ(Count(result, RequestOutcome::kCompleted), 400);
}

}  // namespace
}  // namespace moed::load
