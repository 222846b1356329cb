#include "server/memory_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace moed {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kMib = 1 << 20;

// Two ranks of 100 + 10 + 20 MiB, and 1 MiB for each KV block.
MemoryPlanInputs TwoRanks() {
  const EngineMemory rank = {.weight_bytes = 100 * kMib,
                             .kv_bytes_per_block = kMib,
                             .exchange_bytes = 10 * kMib,
                             .workspace_bytes = 20 * kMib};
  return {.ranks = {rank, rank},
          .available_bytes = 1000 * kMib,
          .reserved_bytes = 40 * kMib,
          .block_size = 16,
          .max_sequences_per_step = 4,
          .model_max_len = 320};
}

TEST(MemoryPlanTest, BlocksTakeWhatIsLeftOnAllRanksTogether) {
  MemoryPlanInputs inputs = TwoRanks();
  inputs.model_max_len = 100'000;
  const auto plan = MakeMemoryPlan(inputs);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->num_blocks, (1000 - 40 - 2 * 130) / 2);
  EXPECT_EQ(plan->total_bytes(), 2 * (130 + 350) * kMib);
  EXPECT_LE(plan->total_bytes(), plan->available_bytes - plan->reserved_bytes);
}

TEST(MemoryPlanTest, BlocksTakeNoMoreThanTheSequencesOfAStepCanUseTwiceOver) {
  const auto plan = MakeMemoryPlan(TwoRanks());
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->num_blocks, 2 * 4 * 20);
  EXPECT_EQ(plan->max_model_len, 320);
  EXPECT_EQ(plan->num_full_sequences(), 8);
}

TEST(MemoryPlanTest, ALengthThatWasNotAskedForIsCutToWhatFits) {
  MemoryPlanInputs inputs = TwoRanks();
  inputs.model_max_len = 100'000;
  EXPECT_EQ(MakeMemoryPlan(inputs)->max_model_len, 350 * 16);
}

TEST(MemoryPlanTest, ALengthThatWasAskedForMustFit) {
  MemoryPlanInputs inputs = TwoRanks();
  inputs.max_model_len = 351 * 16;
  inputs.model_max_len = 100'000;
  const absl::Status status = MakeMemoryPlan(inputs).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("2.0 MiB are missing"));
  inputs.max_model_len = 350 * 16;
  EXPECT_TRUE(MakeMemoryPlan(inputs).ok());
}

TEST(MemoryPlanTest, ANumberOfBlocksThatDoesNotFitIsRefusedSayingByHowMuch) {
  MemoryPlanInputs inputs = TwoRanks();
  inputs.num_blocks = 350;
  EXPECT_EQ(MakeMemoryPlan(inputs)->num_blocks, 350);
  inputs.num_blocks = 400;
  const absl::Status status = MakeMemoryPlan(inputs).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("100.0 MiB are missing"));
}

TEST(MemoryPlanTest, WeightsThatDoNotFitAreRefusedSayingByHowMuch) {
  MemoryPlanInputs inputs = TwoRanks();
  inputs.available_bytes = 200 * kMib;
  const absl::Status status = MakeMemoryPlan(inputs).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("102.0 MiB are missing"));
}

TEST(MemoryPlanTest, BlocksAndLengthMustNotContradictEachOther) {
  MemoryPlanInputs inputs = TwoRanks();
  inputs.num_blocks = 10;
  EXPECT_EQ(MakeMemoryPlan(inputs)->max_model_len, 160);
  inputs.max_model_len = 161;
  const absl::Status status = MakeMemoryPlan(inputs).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("needs 11 KV blocks"));
}

TEST(MemoryPlanTest, BytesAreWrittenForPeople) {
  EXPECT_EQ(FormatBytes(1536), "1.5 KiB");
  EXPECT_EQ(FormatBytes(3 * kMib / 2), "1.5 MiB");
  EXPECT_EQ(FormatBytes(5 * 1024 * kMib / 4), "1.25 GiB");
}

}  // namespace
}  // namespace moed
