#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "server/scheduler/scheduler.h"

namespace moed {
namespace {

// Drives a scheduler with requests that outlive it and counts who gets what.
class TenantFairnessTest : public ::testing::Test {
 protected:
  void Use(int32_t num_blocks, int32_t max_sequences) {
    scheduler_ =
        std::make_unique<Scheduler>(SchedulerOptions{.num_blocks = {num_blocks},
                                                     .block_size = 4,
                                                     .max_model_len = 128,
                                                     .max_tokens_per_step = 32,
                                                     .max_sequences_per_step = max_sequences,
                                                     .vocab_size = 100,
                                                     .prefix_caching = false});
  }

  void Add(const std::string& tenant, int32_t num_prompt_tokens, int32_t max_tokens,
           int32_t priority = 0) {
    auto request = std::make_unique<Request>();
    request->id = std::to_string(requests_.size());
    request->tenant = tenant;
    request->prompt_token_ids.assign(num_prompt_tokens, 7);
    request->stopping.max_tokens = max_tokens;
    request->priority = priority;
    ASSERT_TRUE(scheduler_->Add(*request).ok());
    requests_.push_back(std::move(request));
  }

  // One step; every request that ends is removed.
  void Step() {
    std::optional<PlannedStep> step = scheduler_->Plan(absl::UnixEpoch());
    ASSERT_TRUE(step.has_value());
    std::vector<StepResult> results;
    for (const StepPlan& plan : step->plans) {
      StepResult& result = results.emplace_back(StepResult{.step_id = plan.step_id});
      for (const Slice& slice : plan.slices) {
        if (slice.sample) result.sampled.push_back({.sequence_id = slice.sequence_id});
      }
    }
    auto outcomes = scheduler_->Apply(results);
    ASSERT_TRUE(outcomes.ok()) << outcomes.status();
    for (const SequenceOutcome& outcome : *outcomes) {
      ++num_tokens_[outcome.request->tenant];
      if (!outcome.end) continue;
      ++num_finished_[outcome.request->tenant];
      scheduler_->Remove(outcome.request->id);
    }
  }

  std::unique_ptr<Scheduler> scheduler_;
  std::vector<std::unique_ptr<Request>> requests_;
  std::map<std::string, int> num_tokens_;    // by tenant
  std::map<std::string, int> num_finished_;  // by tenant
};

TEST_F(TenantFairnessTest, AFloodOfOneTenantDoesNotHoldUpAnother) {
  Use(64, 4);
  for (int i = 0; i < 200; ++i) Add("flood", 8, 8);
  Add("small", 8, 8);
  // Four run at a time, each for 8 steps or so: the newcomer is among the first that follow.
  for (int i = 0; i < 20; ++i) Step();
  EXPECT_EQ(num_finished_["small"], 1);
  EXPECT_LE(num_finished_["flood"], 12);
}

TEST_F(TenantFairnessTest, PriorityCountsAmongOnesOwnOnly) {
  Use(64, 4);
  for (int i = 0; i < 200; ++i) Add("greedy", 8, 8, /*priority=*/100);
  Add("modest", 8, 8, /*priority=*/-100);
  for (int i = 0; i < 20; ++i) Step();
  EXPECT_EQ(num_finished_["modest"], 1);
}

TEST_F(TenantFairnessTest, TwoFloodsGetAboutTheSame) {
  Use(64, 4);
  for (int i = 0; i < 100; ++i) Add("many", 8, 16);
  for (int i = 0; i < 100; ++i) Add("few", 8, 16);
  for (int i = 0; i < 200; ++i) Step();
  EXPECT_NEAR(num_tokens_["many"], num_tokens_["few"], 40);
  EXPECT_GT(num_tokens_["few"], 200);
}

TEST_F(TenantFairnessTest, WhoComesBackHasNoClaimToWhatItDidNotUse) {
  Use(64, 1);
  Add("old", 8, 1);
  Step();  // "old" has had 8 tokens, "new" none
  for (int i = 0; i < 50; ++i) Add("new", 8, 8);
  for (int i = 0; i < 200; ++i) Step();
  Add("old", 8, 8);
  for (int i = 0; i < 50; ++i) Add("old", 8, 8);
  num_tokens_.clear();
  for (int i = 0; i < 120; ++i) Step();
  // Equal shares from now on, not everything for the one that was away.
  EXPECT_NEAR(num_tokens_["old"], num_tokens_["new"], 24);
}

TEST_F(TenantFairnessTest, ANewcomerNeverTakesTheBlocksOfAnotherTenant) {
  Use(/*num_blocks=*/16, 4);
  Add("first", 24, 36);  // 60 tokens in the end: 15 blocks of the 16
  Step();
  Add("second", 16, 40, /*priority=*/100);
  for (int i = 0; i < 35; ++i) Step();
  EXPECT_EQ(num_finished_["first"], 1) << "it was preempted for the other";
  EXPECT_EQ(scheduler_->counters().num_preemptions, 1) << "the newcomer's own";
  while (scheduler_->HasWork()) ASSERT_NO_FATAL_FAILURE(Step());
  EXPECT_EQ(num_finished_["second"], 1);
}

TEST_F(TenantFairnessTest, PromptsOfTwoTenantsShareTheSteps) {
  Use(64, 4);
  Add("long", 100, 1);
  Step();
  Add("long", 100, 1);
  Add("short", 8, 1);
  for (int i = 0; i < 5; ++i) Step();
  EXPECT_EQ(num_finished_["short"], 1);
  EXPECT_EQ(num_finished_["long"], 1) << "the second one is not through yet";
}

TEST_F(TenantFairnessTest, EachTenantsWaitingRequestsAreCounted) {
  Use(64, 1);
  Add("a", 8, 4);
  Add("a", 8, 4);
  Add("b", 12, 4);
  Step();
  const WaitingLoad load = scheduler_->waiting_load();
  EXPECT_EQ(load.all.num_requests, 2);
  EXPECT_EQ(load.all.num_tokens, 20);
  EXPECT_EQ(load.Of("a").num_requests, 1);
  EXPECT_EQ(load.Of("b").num_tokens, 12);
  EXPECT_EQ(load.Of("c").num_requests, 0);
}

}  // namespace
}  // namespace moed
