#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "engine/runtime/step_limits.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moed {
namespace {

using ::testing::HasSubstr;

constexpr StepLimits kLimits = {.rank = 1,
                                .num_ranks = 2,
                                .placement_epoch = 4,
                                .vocab_size = 100,
                                .num_valid_tokens = 90,
                                .block_size = 4,
                                .num_blocks = 10,
                                .max_model_len = 16,
                                .max_tokens_per_step = 8,
                                .max_sequences_per_step = 2};

/// Slice 0: positions 0 to 2 of sequence 7. Slice 1: position 5 of sequence 8, with a sample.
StepPlan ValidPlan() {
  SampleRequest sample = {.params = {.temperature = 1.0f}, .position = 6};
  return {.step_id = 3,
          .placement_epoch = 4,
          .num_tokens_per_rank = {8, 4},
          .slices = {{.sequence_id = 7, .token_ids = {1, 2, 3}, .block_table = {0}},
                     {.sequence_id = 8,
                      .start_position = 5,
                      .token_ids = {99},
                      .block_table = {9, 1},
                      .sample = sample}}};
}

struct BadPlan {
  std::string name;
  std::function<void(StepPlan&)> damage;
  std::string message;
};

void SetParams(StepPlan& plan, const std::function<void(SamplingParams&)>& set) {
  set(plan.slices[1].sample->params);
}

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<BadPlan> BadPlans() {
  using P = StepPlan;
  using S = SamplingParams;
  return {
      {"WrongEpoch", [](P& p) { p.placement_epoch = 5; }, "placement_epoch is 5"},
      {"TooFewRanks", [](P& p) { p.num_tokens_per_rank = {4}; }, "has 1 entries"},
      {"PeerBeyondItsLimit", [](P& p) { p.num_tokens_per_rank[0] = 9; }, "[0] is 9"},
      {"NegativePeer", [](P& p) { p.num_tokens_per_rank[0] = -1; }, "[0] is -1"},
      {"OwnTokensDiffer", [](P& p) { p.num_tokens_per_rank[1] = 3; }, "the slices have 4 tokens"},
      {"TooManySlices",
       [](P& p) {
         p.slices.push_back(p.slices[0]);
         p.num_tokens_per_rank[1] = 7;
       },
       "expected at most 2"},
      {"NoTokens",
       [](P& p) {
         p.slices[0].token_ids.clear();
         p.num_tokens_per_rank[1] = 1;
       },
       "slice 0 (sequence 7): token_ids is empty"},
      {"TokenBeyondVocabulary", [](P& p) { p.slices[1].token_ids[0] = 100; },
       "slice 1 (sequence 8): token_ids[0] is 100, expected 0 to 99"},
      {"NegativeToken", [](P& p) { p.slices[0].token_ids[2] = -1; }, "token_ids[2] is -1"},
      {"NegativeStart", [](P& p) { p.slices[0].start_position = -1; }, "start_position is -1"},
      {"BeyondModelLength",
       [](P& p) {
         p.slices[1].start_position = 16;
         p.slices[1].block_table = {1, 2, 3, 4, 5};
       },
       "exceed max_model_len 16"},
      {"StartNearIntMax",
       [](P& p) { p.slices[1].start_position = std::numeric_limits<int32_t>::max(); },
       "exceed max_model_len"},
      {"TableTooShort", [](P& p) { p.slices[1].block_table.pop_back(); }, "do not cover 6"},
      {"TableTooLong",
       [](P& p) {
         p.slices[0].block_table = {0, 2, 3, 4, 5};
       },
       "at most 4"},
      {"BlockOutOfRange", [](P& p) { p.slices[1].block_table[0] = 10; },
       "block_table[0] is 10, expected 0 to 9"},
      {"NegativeBlock", [](P& p) { p.slices[0].block_table[0] = -1; }, "block_table[0] is -1"},
      {"TwoSlicesWriteOneBlock", [](P& p) { p.slices[1].block_table[1] = 0; },
       "block_table[1] is block 0, which this step writes to already"},
      {"WrongSamplePosition", [](P& p) { p.slices[1].sample->position = 5; }, "expected 6"},
      {"NegativeTemperature", [](P& p) { SetParams(p, [](S& s) { s.temperature = -0.1f; }); },
       "temperature is -0.1"},
      {"TemperatureIsNotANumber",
       [](P& p) { SetParams(p, [](S& s) { s.temperature = std::nanf(""); }); }, "temperature"},
      {"InfiniteTemperature", [](P& p) { SetParams(p, [](S& s) { s.temperature = kInfinity; }); },
       "temperature is inf"},
      {"NegativeTopK", [](P& p) { SetParams(p, [](S& s) { s.top_k = -1; }); }, "top_k is -1"},
      {"ZeroTopP", [](P& p) { SetParams(p, [](S& s) { s.top_p = 0; }); }, "top_p is 0"},
      {"MinPOfOne", [](P& p) { SetParams(p, [](S& s) { s.min_p = 1; }); }, "min_p is 1"},
      {"TooManyLogprobs", [](P& p) { SetParams(p, [](S& s) { s.num_top_logprobs = 101; }); },
       "num_top_logprobs"},
      {"InfinitePresencePenalty",
       [](P& p) { SetParams(p, [](S& s) { s.presence_penalty = kInfinity; }); },
       "presence_penalty"},
      {"InfiniteFrequencyPenalty",
       [](P& p) { SetParams(p, [](S& s) { s.frequency_penalty = -kInfinity; }); },
       "frequency_penalty"},
      {"ZeroRepetitionPenalty", [](P& p) { SetParams(p, [](S& s) { s.repetition_penalty = 0; }); },
       "repetition_penalty"},
      {"BiasOfAnIdWithoutToken",
       [](P& p) { SetParams(p, [](S& s) {
                    s.logit_bias = {{90, 1.0f}};
                  }); }, "token 90"},
      {"BiasThatIsNotANumber",
       [](P& p) { SetParams(p, [](S& s) {
                    s.logit_bias = {{9, std::nanf("")}};
                  }); }, "logit_bias"},
      {"AllowedIdOutOfRange",
       [](P& p) { SetParams(p, [](S& s) {
                    s.allowed_token_ids = {5, -1};
                  }); },
       "allowed_token_ids[1] is -1"},
      {"BannedIdOutOfRange", [](P& p) { p.slices[1].sample->banned_token_ids = {95}; },
       "banned_token_ids[0] is 95"},
      {"NothingLeftToChoose",
       [](P& p) {
         SetParams(p, [](S& s) { s.allowed_token_ids = {5, 6}; });
         p.slices[1].sample->banned_token_ids = {6, 5, 5};
       },
       "leaves no token"},
      {"CountOfAnUnknownToken",
       [](P& p) { p.slices[1].sample->token_counts = {{.token_id = 100}}; }, "token 100"},
      {"NegativeCount",
       [](P& p) { p.slices[1].sample->token_counts = {{.token_id = 1, .num_in_output = -1}}; },
       "no negative count"},
  };
}

TEST(ValidateStepPlanTest, AcceptsAPlanWithinItsLimits) {
  EXPECT_TRUE(ValidateStepPlan(ValidPlan(), kLimits).ok())
      << ValidateStepPlan(ValidPlan(), kLimits);
}

TEST(ValidateStepPlanTest, AcceptsAPlanWithoutSlices) {
  StepPlan plan = ValidPlan();
  plan.slices.clear();
  plan.num_tokens_per_rank = {8, 0};
  EXPECT_TRUE(ValidateStepPlan(plan, kLimits).ok()) << ValidateStepPlan(plan, kLimits);
}

TEST(ValidateStepPlanTest, AcceptsABlockThatOneSliceWritesAndAnotherReads) {
  StepPlan plan = ValidPlan();
  plan.slices[1].block_table[0] = 0;  // position 5 is in the second block; the first is read only
  EXPECT_TRUE(ValidateStepPlan(plan, kLimits).ok()) << ValidateStepPlan(plan, kLimits);
}

class BadStepPlanTest : public ::testing::TestWithParam<BadPlan> {};

TEST_P(BadStepPlanTest, IsRefusedByName) {
  StepPlan plan = ValidPlan();
  GetParam().damage(plan);
  const absl::Status status = ValidateStepPlan(plan, kLimits);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(status.message(), HasSubstr("step 3"));
  EXPECT_THAT(status.message(), HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(All, BadStepPlanTest, ::testing::ValuesIn(BadPlans()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace moed
