#include "engine/sampling/sampler.h"

#include <cmath>
#include <cstdint>
#include <memory>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/create_backend.h"

namespace moed {
namespace {

constexpr int32_t kVocab = 8;

SampleRequest Greedy() { return {.params = {.temperature = 0.0f}, .position = 3}; }

Slice SliceOf(uint64_t sequence_id, SampleRequest request) {
  return {.sequence_id = sequence_id, .token_ids = {1}, .block_table = {0}, .sample = request};
}

class SamplerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    absl::StatusOr<std::unique_ptr<kernels::Backend>> backend = kernels::CreateBackend({});
    ASSERT_TRUE(backend.ok()) << backend.status();
    backend_ = *std::move(backend);
    sampler_ = std::make_unique<Sampler>(*backend_, kVocab);
  }

  /// Every slice that asks for a token sees the same logits.
  std::vector<SampledToken> Sample(const std::vector<Slice>& slices,
                                   const std::vector<float>& row) {
    std::vector<float> logits;
    int64_t num_rows = 0;
    for (const Slice& slice : slices) {
      if (!slice.sample) continue;
      logits.insert(logits.end(), row.begin(), row.end());
      ++num_rows;
    }
    return sampler_->Sample({.data = logits.data(),
                             .dtype = DType::kF32,
                             .rows = num_rows,
                             .cols = static_cast<int64_t>(row.size())},
                            slices);
  }

  SampledToken SampleOne(const SampleRequest& request, const std::vector<float>& row) {
    return Sample({SliceOf(1, request)}, row).at(0);
  }

  std::unique_ptr<kernels::Backend> backend_;
  std::unique_ptr<Sampler> sampler_;
  const std::vector<float> row_ = {0.0f, 1.0f, 5.0f, 4.0f, 2.0f, -1.0f, 3.0f, 0.5f};
};

TEST_F(SamplerTest, AnswersInTheOrderOfTheSlicesThatAsked) {
  Slice silent = SliceOf(11, Greedy());
  silent.sample.reset();
  SampleRequest without_two = Greedy();
  without_two.banned_token_ids = {2};
  const auto sampled = Sample({SliceOf(10, Greedy()), silent, SliceOf(12, without_two)}, row_);
  ASSERT_EQ(sampled.size(), 2u);
  EXPECT_EQ(sampled[0].sequence_id, 10u);
  EXPECT_EQ(sampled[0].token_id, 2);
  EXPECT_EQ(sampled[1].sequence_id, 12u);
  EXPECT_EQ(sampled[1].token_id, 3);
}

TEST_F(SamplerTest, GivesNothingWhenNoSliceAsks) {
  Slice silent = SliceOf(11, Greedy());
  silent.sample.reset();
  EXPECT_TRUE(Sample({silent}, row_).empty());
}

TEST_F(SamplerTest, ReportsLogprobsOnlyWhenAsked) {
  SampleRequest request = Greedy();
  SampledToken token = SampleOne(request, row_);
  EXPECT_EQ(token.logprob, 0.0f);
  EXPECT_TRUE(token.top_logprobs.empty());

  request.params.num_top_logprobs = 3;
  token = SampleOne(request, row_);
  double sum = 0;
  for (float logit : row_) sum += std::exp(logit - 5.0);
  EXPECT_NEAR(token.logprob, -std::log(sum), 1e-5);
  ASSERT_EQ(token.top_logprobs.size(), 3u);
  EXPECT_EQ(token.top_logprobs[0].token_id, 2);
  EXPECT_EQ(token.top_logprobs[1].token_id, 3);
  EXPECT_EQ(token.top_logprobs[2].token_id, 6);
  EXPECT_EQ(token.top_logprobs[0].logprob, token.logprob);
}

TEST_F(SamplerTest, NeverChoosesAnIdWithoutAToken) {
  Sampler sampler(*backend_, 2);
  std::vector<float> logits = row_;
  const auto sampled =
      sampler.Sample({.data = logits.data(), .dtype = DType::kF32, .rows = 1, .cols = kVocab},
                     std::vector<Slice>{SliceOf(1, Greedy())});
  EXPECT_EQ(sampled.at(0).token_id, 1);
}

TEST_F(SamplerTest, PassesBiasAndAllowedTokensOn) {
  SampleRequest request = Greedy();
  request.params.allowed_token_ids = {0, 5};
  EXPECT_EQ(SampleOne(request, row_).token_id, 0);
  request.params.logit_bias = {{5, 10.0f}};
  EXPECT_EQ(SampleOne(request, row_).token_id, 5);
}

TEST_F(SamplerTest, CountsTheOutputForPresenceAndFrequency) {
  SampleRequest request = Greedy();
  request.token_counts = {{.token_id = 2, .num_in_prompt = 9, .num_in_output = 0},
                          {.token_id = 3, .num_in_prompt = 0, .num_in_output = 2}};
  request.params.presence_penalty = 1.5f;
  EXPECT_EQ(SampleOne(request, row_).token_id, 2) << "token 2 is in the prompt only";
  request.token_counts[0].num_in_output = 1;
  request.params.presence_penalty = 0.0f;
  request.params.frequency_penalty = 2.5f;  // 2: 5 - 2.5, 3: 4 - 5, 6 stays 3
  EXPECT_EQ(SampleOne(request, row_).token_id, 6);
}

TEST_F(SamplerTest, CountsPromptAndOutputForRepetition) {
  SampleRequest request = Greedy();
  request.token_counts = {{.token_id = 2, .num_in_prompt = 1, .num_in_output = 0}};
  request.params.repetition_penalty = 2.0f;  // 2: 5 / 2
  EXPECT_EQ(SampleOne(request, row_).token_id, 3);
}

TEST_F(SamplerTest, KeepsTheCountsOfRowsApart) {
  std::vector<Slice> slices;
  for (int32_t banned : {2, 3, 6}) {
    SampleRequest request = Greedy();
    request.params.repetition_penalty = 100.0f;
    request.token_counts = {{.token_id = banned, .num_in_prompt = 1}};
    slices.push_back(SliceOf(static_cast<uint64_t>(banned), request));
  }
  const auto sampled = Sample(slices, row_);
  EXPECT_EQ(sampled[0].token_id, 3);
  EXPECT_EQ(sampled[1].token_id, 2);
  EXPECT_EQ(sampled[2].token_id, 2);
}

TEST_F(SamplerTest, ChoosesByRequestSeedSequenceAndPositionAlone) {
  const std::vector<float> flat(kVocab, 0.0f);
  const auto choice = [&](uint64_t seed, uint32_t index, int64_t position) {
    SampleRequest request = {.params = {.temperature = 1.0f, .seed = seed},
                             .sequence_index = index,
                             .position = position};
    return SampleOne(request, flat).token_id;
  };
  int changed_by_seed = 0;
  int changed_by_index = 0;
  int changed_by_position = 0;
  for (int64_t i = 0; i < 64; ++i) {
    const int32_t base = choice(5, 0, i);
    EXPECT_EQ(choice(5, 0, i), base);
    changed_by_seed += choice(6, 0, i) != base;
    changed_by_index += choice(5, 1, i) != base;
    changed_by_position += choice(5, 0, i + 1000) != base;
  }
  EXPECT_GT(changed_by_seed, 32);
  EXPECT_GT(changed_by_index, 32);
  EXPECT_GT(changed_by_position, 32);
}

}  // namespace
}  // namespace moed
