#include "engine/runtime/batch_inputs.h"

#include <memory>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/create_backend.h"
#include "tests/fakes/weights_backend.h"

namespace moed {
namespace {

using ::testing::ElementsAre;

class BatchInputsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    absl::StatusOr<std::unique_ptr<kernels::Backend>> backend = kernels::CreateBackend({});
    ASSERT_TRUE(backend.ok()) << backend.status();
    backend_ = *std::move(backend);
    absl::StatusOr<BatchInputs> inputs = BatchInputs::Create(
        *backend_, {.block_size = 4, .max_tokens_per_step = 8, .max_sequences_per_step = 3});
    ASSERT_TRUE(inputs.ok()) << inputs.status();
    inputs_ = std::make_unique<BatchInputs>(*std::move(inputs));
  }

  std::vector<int32_t> ToHost(const int32_t* device, int64_t count) {
    std::vector<int32_t> host(count);
    backend_->CopyToHost(host.data(), device, count * sizeof(int32_t));
    return host;
  }

  std::unique_ptr<kernels::Backend> backend_;
  std::unique_ptr<BatchInputs> inputs_;
};

TEST_F(BatchInputsTest, LaysSlicesOutRowByRow) {
  const StepPlan plan = {
      .step_id = 9,
      .num_tokens_per_rank = {4},
      .slices = {{.start_position = 3, .token_ids = {11, 12, 13}, .block_table = {5, 2}},
                 {.start_position = 0,
                  .token_ids = {14},
                  .block_table = {7},
                  .sample = SampleRequest{.position = 1}}}};
  const ModelBatch batch = inputs_->Fill(plan);
  EXPECT_EQ(batch.step_id, 9u);
  ASSERT_EQ(batch.num_tokens, 4);
  EXPECT_THAT(ToHost(batch.token_ids, 4), ElementsAre(11, 12, 13, 14));
  EXPECT_THAT(ToHost(batch.positions, 4), ElementsAre(3, 4, 5, 0));
  EXPECT_THAT(ToHost(batch.slots, 4), ElementsAre(5 * 4 + 3, 2 * 4 + 0, 2 * 4 + 1, 7 * 4));
  EXPECT_THAT(batch.attention.row_begin, ElementsAre(0, 3, 4));
  EXPECT_THAT(batch.attention.start_position, ElementsAre(3, 0));
  EXPECT_THAT(batch.attention.block_tables, ElementsAre(5, 2, 7));
  EXPECT_THAT(batch.attention.block_begin, ElementsAre(0, 2, 3));
  ASSERT_EQ(batch.num_sampled, 1);
  EXPECT_THAT(ToHost(batch.sampled_rows, 1), ElementsAre(3));
}

TEST_F(BatchInputsTest, ForgetsThePlanBefore) {
  const Slice slice = {
      .token_ids = {1, 2}, .block_table = {0}, .sample = SampleRequest{.position = 2}};
  inputs_->Fill({.num_tokens_per_rank = {4}, .slices = {slice, slice}});
  const StepPlan idle = {.num_tokens_per_rank = {0}};
  const ModelBatch batch = inputs_->Fill(idle);
  EXPECT_EQ(batch.num_tokens, 0);
  EXPECT_EQ(batch.num_sampled, 0);
  EXPECT_THAT(batch.attention.row_begin, ElementsAre(0));
}

/// Records steps of multiples of four rows.
class RecordingBackend final : public WeightsBackend {
 public:
  int64_t RowsToRecord(int64_t num_rows) const override { return (num_rows + 3) / 4 * 4; }
};

Slice Decode(int32_t token, int32_t position) {
  return {.start_position = position,
          .token_ids = {token},
          .block_table = {2 * token, 2 * token + 1},
          .sample = SampleRequest{.position = position + 1}};
}

class RecordableBatchTest : public ::testing::Test {
 protected:
  ModelBatch Fill(const StepPlan& plan, int32_t max_sequences = 8) {
    absl::StatusOr<BatchInputs> inputs = BatchInputs::Create(
        backend_,
        {.block_size = 4, .max_tokens_per_step = 8, .max_sequences_per_step = max_sequences});
    EXPECT_TRUE(inputs.ok()) << inputs.status();
    inputs_ = std::make_unique<BatchInputs>(*std::move(inputs));
    return inputs_->Fill(plan);
  }

  RecordingBackend backend_;
  std::unique_ptr<BatchInputs> inputs_;
};

TEST_F(RecordableBatchTest, IsFilledUpWithTheSequenceThatHasTheFewestKeys) {
  const StepPlan plan = {.num_tokens_per_rank = {2}, .slices = {Decode(5, 7), Decode(6, 2)}};
  const ModelBatch batch = Fill(plan);
  EXPECT_TRUE(batch.is_recordable);
  EXPECT_EQ(batch.num_tokens, 4);
  EXPECT_EQ(batch.num_own_tokens, 2);
  EXPECT_EQ(*batch.num_counted_tokens, 2);
  EXPECT_THAT(batch.num_tokens_per_rank, ElementsAre(4));
  EXPECT_THAT(std::span(batch.token_ids, 4), ElementsAre(5, 6, 6, 6));
  EXPECT_THAT(std::span(batch.positions, 4), ElementsAre(7, 2, 2, 2));
  EXPECT_THAT(std::span(batch.slots, 4), ElementsAre(11 * 4 + 3, 12 * 4 + 2, 50, 50));
  EXPECT_THAT(batch.attention.block_tables, ElementsAre(10, 11, 12, 13, 12, 13, 12, 13));
  EXPECT_EQ(batch.num_sampled, 4);
  EXPECT_THAT(std::span(batch.sampled_rows, 4), ElementsAre(0, 1, 2, 3));
}

TEST_F(RecordableBatchTest, IsNeverLargerThanAStepMayBe) {
  const StepPlan plan = {.num_tokens_per_rank = {2}, .slices = {Decode(5, 7), Decode(6, 2)}};
  EXPECT_EQ(Fill(plan, 3).num_tokens, 3);
}

TEST_F(RecordableBatchTest, StepsThatHaveMoreThanDecodingAreLeftAsTheyAre) {
  Slice prompt = Decode(5, 0);
  prompt.token_ids = {1, 2};
  Slice unsampled = Decode(5, 0);
  unsampled.sample.reset();
  for (const Slice& other : {prompt, unsampled}) {
    const StepPlan plan = {.num_tokens_per_rank = {9}, .slices = {Decode(6, 2), other}};
    const ModelBatch batch = Fill(plan);
    EXPECT_FALSE(batch.is_recordable);
    EXPECT_EQ(batch.num_tokens, 1 + static_cast<int64_t>(other.token_ids.size()));
    EXPECT_EQ(batch.num_own_tokens, batch.num_tokens);
    EXPECT_THAT(batch.num_tokens_per_rank, ElementsAre(9));
  }
}

}  // namespace
}  // namespace moed
