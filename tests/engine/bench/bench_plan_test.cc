#include "engine/bench/bench_plan.h"

#include <map>
#include <set>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moed {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;

BenchOptions Options(int32_t num_prompt_tokens, int32_t batch) {
  return {.num_prompt_tokens = num_prompt_tokens,
          .num_generated_tokens = 3,
          .batches = {batch},
          .max_tokens_per_step = 64};
}

std::vector<BenchStep> Prompts(BenchPlanner& planner) {
  std::vector<BenchStep> steps;
  while (std::optional<BenchStep> step = planner.PlanPrompt()) steps.push_back(*std::move(step));
  return steps;
}

/// The blocks that a slice writes to.
std::vector<int32_t> WrittenBlocks(const Slice& slice) {
  const int32_t first = slice.start_position / kBenchBlockSize;
  return {slice.block_table.begin() + first, slice.block_table.end()};
}

/// Every block of `step` that a slice writes belongs to no other slice of the same rank.
void ExpectWrittenBlocksAreNobodyElses(const BenchStep& step, int64_t num_blocks) {
  for (const StepPlan& plan : step.plans) {
    std::map<int32_t, int32_t> num_users;
    for (const Slice& slice : plan.slices) {
      for (int32_t block : slice.block_table) {
        EXPECT_GE(block, 0);
        EXPECT_LT(block, num_blocks);
        ++num_users[block];
      }
    }
    for (const Slice& slice : plan.slices) {
      for (int32_t block : WrittenBlocks(slice)) EXPECT_EQ(num_users[block], 1) << block;
    }
  }
}

TEST(BenchPlanTest, PromptsAreComputedInFullWithinTheLimitOfAStep) {
  const BenchOptions options = Options(50, 3);
  BenchPlanner planner(options, 3, 1000);
  const std::vector<BenchStep> steps = Prompts(planner);
  ASSERT_EQ(steps.size(), 3u);  // 64 + 64 + 22 tokens
  std::map<uint64_t, int32_t> num_computed;
  for (const BenchStep& step : steps) {
    EXPECT_LE(step.load.num_prompt_tokens, 64);
    ExpectWrittenBlocksAreNobodyElses(step, MakeKvLayout(options).num_blocks());
    for (const Slice& slice : step.plans[0].slices) {
      EXPECT_EQ(slice.start_position, num_computed[slice.sequence_id]);
      num_computed[slice.sequence_id] += static_cast<int32_t>(slice.token_ids.size());
      EXPECT_EQ(slice.sample.has_value(), num_computed[slice.sequence_id] == 50);
    }
  }
  EXPECT_THAT(num_computed, ElementsAre(std::pair(0, 50), std::pair(1, 50), std::pair(2, 50)));
}

TEST(BenchPlanTest, SequencesHaveTokensOfTheirOwnAndARestartWithTheSameSeedRepeatsThem) {
  const BenchOptions options = Options(20, 2);
  BenchPlanner planner(options, 2, 1 << 20);
  const std::vector<BenchStep> first = Prompts(planner);
  ASSERT_EQ(first.size(), 1u);
  const std::vector<Slice>& slices = first[0].plans[0].slices;
  EXPECT_NE(slices[0].token_ids, slices[1].token_ids);
  planner.Restart(options.seed);
  EXPECT_EQ(Prompts(planner)[0].plans[0].slices, slices);
  planner.Restart(options.seed + 1);
  EXPECT_NE(Prompts(planner)[0].plans[0].slices, slices);
}

TEST(BenchPlanTest, ASharedPromptIsComputedOnceOnEachRankAndReadByAll) {
  BenchOptions options = Options(32, 4);  // two whole blocks
  options.shared_prompt = true;
  options.num_ranks = 2;
  BenchPlanner planner(options, 4, 1000);
  const std::vector<BenchStep> prompts = Prompts(planner);
  ASSERT_EQ(prompts.size(), 1u);
  EXPECT_EQ(prompts[0].load.num_prompt_tokens, 2 * 32);

  const BenchStep decode = planner.PlanGeneration();
  ExpectWrittenBlocksAreNobodyElses(decode, MakeKvLayout(options).num_blocks());
  for (const StepPlan& plan : decode.plans) {
    ASSERT_EQ(plan.slices.size(), 2u);
    for (const Slice& slice : plan.slices) {
      EXPECT_EQ(slice.start_position, 32);
      ASSERT_EQ(slice.block_table.size(), 3u);
      EXPECT_EQ(slice.block_table[0], 0);
      EXPECT_EQ(slice.block_table[1], 1);
    }
  }
  // Of each rank the shared 32 once and one new one of each sequence.
  EXPECT_EQ(decode.load.num_kv_positions, 2 * (32 + 2));
  EXPECT_EQ(decode.load.num_attention_pairs, 4 * 33);
}

TEST(BenchPlanTest, WhatIsLeftOfASharedPromptIsEachSequencesOwnAndComesInALaterStep) {
  BenchOptions options = Options(37, 3);
  options.shared_prompt = true;
  BenchPlanner planner(options, 3, 1000);
  const std::vector<BenchStep> steps = Prompts(planner);
  ASSERT_EQ(steps.size(), 2u);
  ASSERT_EQ(steps[0].plans[0].slices.size(), 1u);
  EXPECT_EQ(steps[0].plans[0].slices[0].token_ids.size(), 37u);
  ASSERT_EQ(steps[1].plans[0].slices.size(), 2u);
  for (const Slice& slice : steps[1].plans[0].slices) {
    EXPECT_EQ(slice.start_position, 32);
    EXPECT_EQ(slice.token_ids.size(), 5u);
  }
  ExpectWrittenBlocksAreNobodyElses(steps[1], MakeKvLayout(options).num_blocks());
}

TEST(BenchPlanTest, APromptShorterThanABlockIsSharedByNobody) {
  BenchOptions options = Options(10, 2);
  options.shared_prompt = true;
  BenchPlanner planner(options, 2, 1000);
  const std::vector<BenchStep> steps = Prompts(planner);
  ASSERT_EQ(steps.size(), 1u);
  EXPECT_EQ(steps[0].load.num_prompt_tokens, 20);
}

TEST(BenchPlanTest, AMixedStepDecodesAllSequencesAndComputesAChunkOfOneMorePrompt) {
  BenchOptions options = Options(20, 3);
  options.num_mixed_tokens = 8;
  options.num_ranks = 2;
  BenchPlanner planner(options, 3, 1000);
  Prompts(planner);
  planner.PlanGeneration();
  std::vector<int64_t> chunks;
  while (const std::optional<BenchStep> step = planner.PlanMixed()) {
    chunks.push_back(step->load.num_prompt_tokens);
    EXPECT_EQ(step->load.num_decoded_tokens, 3);
    EXPECT_THAT(step->plans[0].num_tokens_per_rank,
                ElementsAreArray(step->plans[1].num_tokens_per_rank));
    EXPECT_EQ(step->plans[1].slices.back().sequence_id, 3u);
    ExpectWrittenBlocksAreNobodyElses(*step, MakeKvLayout(options).num_blocks());
  }
  EXPECT_THAT(chunks, ElementsAre(8, 8, 4));
}

TEST(BenchPlanTest, TheLoadCountsWorkAndSamplesOfEachRank) {
  BenchOptions options = Options(16, 1);
  options.num_ranks = 2;  // the second has nothing to do
  BenchPlanner planner(options, 1, 1000);
  const std::vector<BenchStep> steps = Prompts(planner);
  ASSERT_EQ(steps.size(), 1u);
  const StepLoad& load = steps[0].load;
  EXPECT_EQ(load.num_working_ranks, 1);
  EXPECT_EQ(load.num_sampling_ranks, 1);
  EXPECT_EQ(load.num_sampled, 1);
  EXPECT_EQ(load.num_kv_positions, 16);
  EXPECT_EQ(load.num_attention_pairs, 16 * 17 / 2);
}

}  // namespace
}  // namespace moed
