#include "server/scheduler/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <numeric>
#include <string>
#include <vector>

namespace moed {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

constexpr int32_t kEos = 99;

SchedulerOptions Options() {
  return {.num_blocks = {64},
          .block_size = 4,
          .max_model_len = 128,
          .max_tokens_per_step = 64,
          .max_sequences_per_step = 8,
          .vocab_size = 100};
}

std::vector<int32_t> Tokens(int32_t count, int32_t first = 0) {
  std::vector<int32_t> tokens(count);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

Request MakeRequest(std::string id, std::vector<int32_t> prompt, int32_t max_tokens) {
  Request request;
  request.id = std::move(id);
  request.prompt_token_ids = std::move(prompt);
  request.stopping.max_tokens = max_tokens;
  request.sampling.seed = 5;
  return request;
}

// Drives a scheduler by hand; every token sampled is `next_token`.
class SchedulerTest : public ::testing::Test {
 protected:
  void Use(SchedulerOptions options) { scheduler_ = std::make_unique<Scheduler>(options); }
  void SetUp() override { Use(Options()); }

  void Add(const Request& request) { ASSERT_TRUE(scheduler_->Add(request).ok()); }

  // Plans a step and returns the number of new tokens per sequence id on each rank.
  std::vector<std::map<uint64_t, size_t>> Plan() {
    step_ = scheduler_->Plan(now_);
    std::vector<std::map<uint64_t, size_t>> sizes;
    if (!step_) return sizes;
    for (const StepPlan& plan : step_->plans) {
      auto& rank = sizes.emplace_back();
      for (const Slice& slice : plan.slices) rank[slice.sequence_id] = slice.token_ids.size();
    }
    return sizes;
  }

  std::vector<StepResult> Results() const {
    std::vector<StepResult> results;
    for (const StepPlan& plan : step_->plans) {
      StepResult& result = results.emplace_back(StepResult{.step_id = plan.step_id});
      for (const Slice& slice : plan.slices) {
        if (slice.sample) {
          result.sampled.push_back({.sequence_id = slice.sequence_id, .token_id = next_token_});
        }
      }
    }
    return results;
  }

  std::vector<SequenceOutcome> Apply() {
    auto outcomes = scheduler_->Apply(Results());
    EXPECT_TRUE(outcomes.ok()) << outcomes.status();
    return *std::move(outcomes);
  }

  std::vector<SequenceOutcome> Step() {
    Plan();
    return step_ ? Apply() : std::vector<SequenceOutcome>();
  }

  const Slice& slice(size_t index, size_t rank = 0) { return step_->plans[rank].slices[index]; }

  std::unique_ptr<Scheduler> scheduler_;
  std::optional<PlannedStep> step_;
  absl::Time now_ = absl::FromUnixSeconds(1000);
  int32_t next_token_ = 50;
};

TEST_F(SchedulerTest, AnIdleSchedulerPlansNothing) {
  EXPECT_FALSE(scheduler_->HasWork());
  EXPECT_EQ(scheduler_->Plan(now_), std::nullopt);
}

TEST_F(SchedulerTest, APromptIsComputedInChunksOfTheBudgetAndThenDecodes) {
  const Request request = MakeRequest("a", Tokens(100), 3);
  Add(request);
  EXPECT_THAT(Plan(), ElementsAre(std::map<uint64_t, size_t>{{1, 64}}));
  EXPECT_FALSE(slice(0).sample);
  EXPECT_EQ(slice(0).block_table.size(), 16u);
  EXPECT_THAT(Apply(), IsEmpty());
  EXPECT_THAT(Plan(), ElementsAre(std::map<uint64_t, size_t>{{1, 36}}));
  EXPECT_EQ(slice(0).start_position, 64);
  ASSERT_TRUE(slice(0).sample);
  EXPECT_EQ(slice(0).sample->position, 100);
  EXPECT_EQ(step_->num_prefill_tokens, 36);
  EXPECT_EQ(Apply().size(), 1u);
  EXPECT_THAT(Plan(), ElementsAre(std::map<uint64_t, size_t>{{1, 1}}));
  EXPECT_EQ(slice(0).start_position, 100);
  EXPECT_THAT(slice(0).token_ids, ElementsAre(50));
  EXPECT_EQ(step_->num_prefill_tokens, 0);
}

TEST_F(SchedulerTest, DecodesComeBeforePrefillsBeforeAdmissions) {
  const Request a = MakeRequest("a", Tokens(4), 9), b = MakeRequest("b", Tokens(80, 10), 9),
                c = MakeRequest("c", Tokens(40, 30), 9);
  Add(a);
  Step();
  Add(b);
  EXPECT_THAT(Plan(), ElementsAre(std::map<uint64_t, size_t>{{1, 1}, {2, 63}}));
  Apply();
  Add(c);
  EXPECT_THAT(Plan(), ElementsAre(std::map<uint64_t, size_t>{{1, 1}, {2, 17}, {3, 40}}));
  EXPECT_EQ(slice(0).sequence_id, 1u);
  EXPECT_EQ(slice(1).sequence_id, 2u);
  EXPECT_EQ(slice(2).sequence_id, 3u);
}

TEST_F(SchedulerTest, ASequenceEndsAtMaxTokens) {
  const Request request = MakeRequest("a", Tokens(4), 2);
  Add(request);
  EXPECT_FALSE(Step()[0].end);
  const auto outcomes = Step();
  ASSERT_TRUE(outcomes[0].end);
  EXPECT_EQ(outcomes[0].end->reason, FinishReason::kLength);
  EXPECT_FALSE(scheduler_->HasWork());
  EXPECT_EQ(scheduler_->usage(0).num_free_blocks, 64);
}

TEST_F(SchedulerTest, ASequenceEndsAtTheContextLength) {
  const Request request = MakeRequest("a", Tokens(126), 1000);
  Add(request);
  Step();
  EXPECT_FALSE(Step()[0].end);
  EXPECT_EQ(Step()[0].end->reason, FinishReason::kLength);
}

TEST_F(SchedulerTest, EosAndStopIdsEndASequenceUnlessEosIsIgnored) {
  SchedulerOptions options = Options();
  options.eos_token_ids = {kEos};
  Use(options);
  const Request a = MakeRequest("a", Tokens(4), 9);
  Request b = MakeRequest("b", Tokens(4), 9), c = MakeRequest("c", Tokens(4), 9);
  b.stopping.ignore_eos = true;
  c.stopping.ignore_eos = true;
  c.stopping.stop_token_ids = {kEos};
  Add(a), Add(b), Add(c);
  next_token_ = kEos;
  const auto outcomes = Step();
  ASSERT_TRUE(outcomes[0].end);
  EXPECT_EQ(outcomes[0].end->reason, FinishReason::kStop);
  EXPECT_EQ(outcomes[0].end->stop_token_id, kEos);
  EXPECT_FALSE(outcomes[1].end);
  EXPECT_TRUE(outcomes[2].end);
}

TEST_F(SchedulerTest, IdsWithoutATokenAreAlwaysBanned) {
  SchedulerOptions options = Options();
  options.hole_token_ids = {17, 42};
  Use(options);
  Request request = MakeRequest("a", Tokens(4), 3);
  request.stopping.min_tokens = 1;
  request.stopping.stop_token_ids = {5};
  Add(request);
  Plan();
  EXPECT_THAT(slice(0).sample->banned_token_ids, UnorderedElementsAre(17, 42, 5));
  Apply();
  Plan();
  EXPECT_THAT(slice(0).sample->banned_token_ids, UnorderedElementsAre(17, 42));
}

TEST_F(SchedulerTest, StopIdsAreBannedUntilMinTokens) {
  SchedulerOptions options = Options();
  options.eos_token_ids = {kEos};
  Use(options);
  Request a = MakeRequest("a", Tokens(4), 9), b = MakeRequest("b", Tokens(4), 9);
  a.stopping.min_tokens = 1;
  a.stopping.stop_token_ids = {7};
  b.stopping.min_tokens = 1;
  b.stopping.ignore_eos = true;
  Add(a), Add(b);
  Plan();
  EXPECT_THAT(slice(0).sample->banned_token_ids, UnorderedElementsAre(7, kEos));
  EXPECT_THAT(slice(1).sample->banned_token_ids, IsEmpty());
  Apply();
  Plan();
  EXPECT_THAT(slice(0).sample->banned_token_ids, IsEmpty());
}

TEST_F(SchedulerTest, TokenCountsAreSentOnlyWithPenalties) {
  Request a = MakeRequest("a", {3, 3, 50}, 9);
  const Request b = MakeRequest("b", {3}, 9);
  a.sampling.presence_penalty = 1;
  Add(a), Add(b);
  Step();
  Plan();
  EXPECT_THAT(slice(0).sample->token_counts,
              ElementsAre(TokenCount{3, 2, 0}, TokenCount{50, 1, 1}));
  EXPECT_THAT(slice(1).sample->token_counts, IsEmpty());
}

TEST_F(SchedulerTest, ARequestThatCanNeverFitIsRefused) {
  SchedulerOptions options = Options();
  options.num_blocks = {4, 5};
  Use(options);
  const Request fits = MakeRequest("a", Tokens(10), 11), large = MakeRequest("b", Tokens(10), 12),
                longer = MakeRequest("c", Tokens(128), 1);
  EXPECT_TRUE(scheduler_->Add(fits).ok());
  const absl::Status status = scheduler_->Add(large);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("needs 6 KV blocks of 4 tokens, but a rank has only 5"));
  EXPECT_THAT(scheduler_->Add(longer).message(), HasSubstr("128 tokens, expected 1 to 127"));
}

TEST_F(SchedulerTest, AnIdInUseIsRefused) {
  const Request a = MakeRequest("a", Tokens(4), 2), again = MakeRequest("a", Tokens(4), 2);
  Add(a);
  EXPECT_EQ(scheduler_->Add(again).code(), absl::StatusCode::kAlreadyExists);
  scheduler_->Remove("a");
  EXPECT_TRUE(scheduler_->Add(again).ok());
}

TEST_F(SchedulerTest, HigherPriorityIsAdmittedFirstAndEqualOnesInOrderOfArrival) {
  SchedulerOptions options = Options();
  options.max_sequences_per_step = 2;
  Use(options);
  const Request a = MakeRequest("a", Tokens(4), 2), b = MakeRequest("b", Tokens(4), 2);
  Request c = MakeRequest("c", Tokens(4), 2);
  c.priority = 1;
  Add(a), Add(b), Add(c);
  Plan();
  EXPECT_EQ(slice(0).sequence_id, 3u);
  EXPECT_EQ(slice(1).sequence_id, 1u);
}

TEST_F(SchedulerTest, ABigRequestIsNotOvertakenBySmallOnes) {
  SchedulerOptions options = Options();
  options.num_blocks = {10};
  Use(options);
  const Request small = MakeRequest("a", Tokens(8), 20), big = MakeRequest("b", Tokens(30, 20), 8),
                later = MakeRequest("c", Tokens(2, 60), 1);
  Add(small), Add(big), Add(later);
  EXPECT_EQ(Plan()[0].size(), 1u);
  Apply();
  for (int i = 0; i < 18; ++i) {
    EXPECT_EQ(Plan()[0].size(), 1u);
    Apply();
  }
  EXPECT_TRUE(Step()[0].end);
  EXPECT_EQ(Plan()[0].count(2), 1u);
}

TEST_F(SchedulerTest, WithoutBlocksTheLatestOfTheLowestPriorityIsPreemptedAndResumes) {
  SchedulerOptions options = Options();
  options.num_blocks = {9};
  Use(options);
  Request a = MakeRequest("a", Tokens(8), 16), b = MakeRequest("b", Tokens(8, 40), 16);
  b.priority = 1;
  Add(a), Add(b);
  std::map<std::string, int> num_tokens;
  bool was_preempted = false;
  for (int i = 0; i < 60 && scheduler_->HasWork(); ++i) {
    for (const SequenceOutcome& outcome : Step()) ++num_tokens[outcome.request->id];
    was_preempted |= scheduler_->progress("a").num_preemptions > 0;
  }
  EXPECT_TRUE(was_preempted);
  EXPECT_EQ(scheduler_->progress("b").num_preemptions, 0);
  EXPECT_THAT(num_tokens, ElementsAre(std::pair("a", 16), std::pair("b", 16)));
  EXPECT_EQ(scheduler_->usage(0).num_free_blocks, 9);
}

TEST_F(SchedulerTest, ARepeatedPromptComputesOnlyWhatIsNotCached) {
  const Request a = MakeRequest("a", Tokens(32), 1), b = MakeRequest("b", Tokens(32), 1);
  Add(a);
  Step();
  Add(b);
  EXPECT_THAT(Plan(), ElementsAre(std::map<uint64_t, size_t>{{2, 4}}));
  EXPECT_EQ(slice(0).start_position, 28);
  EXPECT_EQ(scheduler_->progress("b").num_cached_tokens, 28);
  EXPECT_EQ(scheduler_->counters().prefix_cache_queries, 64);
  EXPECT_EQ(scheduler_->counters().prefix_cache_hits, 28);
}

TEST_F(SchedulerTest, ABypassingRequestNeitherUsesNorFillsTheCache) {
  Request a = MakeRequest("a", Tokens(32), 1), b = MakeRequest("b", Tokens(32), 1);
  a.bypass_prefix_cache = true;
  Add(a);
  Step();
  EXPECT_EQ(scheduler_->usage(0).num_cached_blocks, 0);
  Add(b);
  EXPECT_EQ(Plan()[0][2], 32u);
}

TEST_F(SchedulerTest, SiblingsWaitForTheFirstAndShareItsPromptBlocks) {
  Request a = MakeRequest("a", Tokens(10), 3);
  a.num_sequences = 3;
  Add(a);
  EXPECT_THAT(Plan(), ElementsAre(std::map<uint64_t, size_t>{{1, 10}}));
  Apply();
  EXPECT_THAT(Plan(), ElementsAre(std::map<uint64_t, size_t>{{1, 1}, {2, 2}, {3, 2}}));
  EXPECT_EQ(slice(1).block_table[0], slice(0).block_table[0]);
  EXPECT_EQ(slice(2).block_table[1], slice(0).block_table[1]);
  EXPECT_NE(slice(1).block_table[2], slice(2).block_table[2]);
  EXPECT_EQ(slice(2).sample->sequence_index, 2u);
}

TEST_F(SchedulerTest, ALaterRequestRunsWhileSiblingsWaitForTheFirst) {
  Request a = MakeRequest("a", Tokens(10), 3);
  const Request b = MakeRequest("b", Tokens(4, 50), 3);
  a.num_sequences = 2;
  Add(a), Add(b);
  EXPECT_THAT(Plan(), ElementsAre(std::map<uint64_t, size_t>{{1, 10}, {3, 4}}));
}

TEST_F(SchedulerTest, RanksAreChosenByTokensNotByCount) {
  SchedulerOptions options = Options();
  options.num_blocks = {64, 64};
  options.max_tokens_per_step = 128;
  Use(options);
  const Request big = MakeRequest("a", Tokens(60), 9), b = MakeRequest("b", Tokens(10, 20), 9),
                c = MakeRequest("c", Tokens(10, 40), 9);
  Add(big), Add(b), Add(c);
  EXPECT_THAT(Plan(), ElementsAre(std::map<uint64_t, size_t>{{1, 60}},
                                  std::map<uint64_t, size_t>{{2, 10}, {3, 10}}));
  EXPECT_THAT(step_->plans[0].num_tokens_per_rank, ElementsAre(60, 20));
  EXPECT_THAT(step_->plans[1].num_tokens_per_rank, ElementsAre(60, 20));
}

TEST_F(SchedulerTest, TheRankWithTheCachedPrefixIsChosenUnlessItIsLoaded) {
  SchedulerOptions options = Options();
  options.num_blocks = {64, 64};
  Use(options);
  const Request a = MakeRequest("a", Tokens(8, 70), 40), b = MakeRequest("b", Tokens(32), 1),
                c = MakeRequest("c", Tokens(32), 40), d = MakeRequest("d", Tokens(60, 30), 40);
  Add(a), Add(b);  // a on rank 0, b on rank 1
  Step();
  Add(d);  // to rank 1, which is empty
  EXPECT_EQ(Plan()[1].count(3), 1u);
  Apply();
  scheduler_->Remove("d");
  Add(c);  // its prefix is on rank 1
  EXPECT_EQ(Plan()[1][4], 4u);
}

TEST_F(SchedulerTest, ARankWithoutTokensStillGetsAPlan) {
  SchedulerOptions options = Options();
  options.num_blocks = {64, 64, 64};
  Use(options);
  const Request a = MakeRequest("a", Tokens(8), 1);
  Add(a);
  EXPECT_EQ(Plan().size(), 3u);
  EXPECT_EQ(step_->plans[2].step_id, step_->plans[0].step_id);
  EXPECT_THAT(step_->plans[2].slices, IsEmpty());
}

TEST_F(SchedulerTest, RemovingARequestFreesItsBlocksAtOnce) {
  Request a = MakeRequest("a", Tokens(20), 9);
  a.num_sequences = 2;
  const Request b = MakeRequest("b", Tokens(20, 50), 9);
  Add(a), Add(b);
  Step();
  Step();
  EXPECT_LT(scheduler_->usage(0).num_free_blocks, 64);
  scheduler_->Remove("a");
  scheduler_->Remove("b");
  scheduler_->Remove("nobody");
  EXPECT_EQ(scheduler_->usage(0).num_free_blocks, 64);
  EXPECT_FALSE(scheduler_->HasWork());
}

TEST_F(SchedulerTest, FinishingOneSequenceLeavesTheOthers) {
  Request a = MakeRequest("a", Tokens(3), 9);
  a.num_sequences = 2;
  Add(a);
  Step();
  scheduler_->Finish("a", 0);
  EXPECT_THAT(Plan(), ElementsAre(std::map<uint64_t, size_t>{{2, 1}}));
}

TEST_F(SchedulerTest, ExpiredNamesLiveRequestsWhoseDeadlineHasCome) {
  Request a = MakeRequest("a", Tokens(3), 9), b = MakeRequest("b", Tokens(3), 9),
          c = MakeRequest("c", Tokens(3), 1);
  a.deadline = now_ + absl::Seconds(1);
  b.deadline = now_ + absl::Seconds(2);
  c.deadline = now_;
  Add(a), Add(b), Add(c);
  Step();  // c is finished
  EXPECT_THAT(scheduler_->Expired(now_), IsEmpty());
  EXPECT_THAT(scheduler_->Expired(now_ + absl::Seconds(1)), ElementsAre("a"));
}

TEST_F(SchedulerTest, QueuedRequestsAreThoseNeverScheduled) {
  SchedulerOptions options = Options();
  options.max_sequences_per_step = 1;
  Use(options);
  const Request a = MakeRequest("a", Tokens(3), 9), b = MakeRequest("b", Tokens(3), 9);
  Add(a), Add(b);
  EXPECT_EQ(scheduler_->waiting_load().all.num_requests, 2);
  Step();
  EXPECT_EQ(scheduler_->waiting_load().all.num_requests, 1);
  EXPECT_TRUE(scheduler_->progress("a").started());
  EXPECT_FALSE(scheduler_->progress("b").started());
  scheduler_->Remove("b");
  EXPECT_EQ(scheduler_->waiting_load().all.num_requests, 0);
}

TEST_F(SchedulerTest, ResultsThatDoNotFitTheStepAreRefused) {
  const Request a = MakeRequest("a", Tokens(3), 9);
  Add(a);
  Plan();
  auto results = Results();
  results[0].sampled[0].token_id = 100;
  EXPECT_EQ(scheduler_->Apply(results).status().code(), absl::StatusCode::kInternal);
  results = Results();
  results[0].sampled.clear();
  EXPECT_THAT(scheduler_->Apply(results).status().message(), HasSubstr("0 tokens, expected 1"));
  results = Results();
  results[0].sampled.push_back(results[0].sampled[0]);
  EXPECT_THAT(scheduler_->Apply(results).status().message(), HasSubstr("2 tokens, expected 1"));
  results = Results();
  results[0].step_id = 9;
  EXPECT_THAT(scheduler_->Apply(results).status().message(), HasSubstr("answered for step 9"));
  EXPECT_THAT(scheduler_->Apply({}).status().message(), HasSubstr("0 results"));
}

}  // namespace
}  // namespace moed
