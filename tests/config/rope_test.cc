#include "config/rope.h"

#include <gtest/gtest.h>

#include <cmath>
#include <utility>
#include <vector>

namespace moed {
namespace {

// The expected numbers below were printed by transformers 5.24 (Qwen3MoeRotaryEmbedding, float32).

void ExpectRelative(double actual, double expected, double tolerance) {
  EXPECT_NEAR(actual, expected, tolerance * std::abs(expected));
}

void ExpectInvFreq(const RopeConfig& config, int64_t head_dim,
                   const std::vector<std::pair<int, double>>& expected) {
  const std::vector<float> inv_freq = ComputeRopeInvFreq(config, head_dim);
  ASSERT_EQ(inv_freq.size(), static_cast<size_t>(head_dim / 2));
  for (const auto& [pair, value] : expected) {
    SCOPED_TRACE(pair);
    ExpectRelative(inv_freq[pair], value, 4e-7);
  }
}

RopeConfig Llama3() {
  return {.type = RopeType::kLlama3,
          .theta = 5e5,
          .factor = 8,
          .low_freq_factor = 1,
          .high_freq_factor = 4,
          .original_max_positions = 8192};
}

RopeConfig Yarn() {
  return {.type = RopeType::kYarn,
          .theta = 1e6,
          .factor = 4,
          .original_max_positions = 32768,
          .attention_factor = YarnAttentionFactor(4, 0, 0)};
}

TEST(RopeTest, DefaultFrequenciesMatchTheReference) {
  ExpectInvFreq({.theta = 1e6}, 64,
                {{0, 1.0},
                 {1, 0.6493816375732422},
                 {8, 0.03162277862429619},
                 {19, 0.00027384195709601045},
                 {31, 1.5399265294036013e-06}});
}

TEST(RopeTest, LinearFrequenciesMatchTheReference) {
  ExpectInvFreq({.type = RopeType::kLinear, .theta = 1e4, .factor = 2.5}, 24,
                {{0, 0.4000000059604645},
                 {1, 0.18566355109214783},
                 {6, 0.003999999724328518},
                 {11, 8.61773660290055e-05}});
}

TEST(RopeTest, Llama3FrequenciesMatchTheReferenceInAllThreeBands) {
  ExpectInvFreq(Llama3(), 64,
                {{0, 1.0},
                 {8, 0.03760603070259094},
                 {16, 0.0005248460220173001},
                 {19, 5.165906986803748e-05},
                 {24, 6.647869668086059e-06},
                 {31, 3.76732259610435e-07}});
}

TEST(RopeTest, Llama3WithAnEmptyMiddleBandDividesByNothing) {
  RopeConfig config = Llama3();
  config.low_freq_factor = config.high_freq_factor = 1;
  const std::vector<float> scaled = ComputeRopeInvFreq(config, 64);
  config.type = RopeType::kDefault;
  const std::vector<float> plain = ComputeRopeInvFreq(config, 64);
  for (size_t j = 0; j < plain.size(); ++j) {
    const bool is_slow = 2 * M_PI / plain[j] > 8192;
    ExpectRelative(scaled[j], is_slow ? plain[j] / 8 : plain[j], 1e-6);
  }
}

TEST(RopeTest, YarnFrequenciesMatchTheReference) {
  ExpectInvFreq(Yarn(), 128,
                {{0, 1.0},
                 {1, 0.8058422207832336},
                 {16, 0.03162277862429619},
                 {32, 0.0006029411451891065},
                 {35, 0.0002462583943270147},
                 {48, 7.905693564680405e-06},
                 {63, 3.102344408034696e-07}});
}

TEST(RopeTest, YarnWithoutTruncationMatchesTheReference) {
  ExpectInvFreq({.type = RopeType::kYarn,
                 .theta = 150000,
                 .factor = 32,
                 .original_max_positions = 4096,
                 .beta_fast = 16,
                 .beta_slow = 2,
                 .truncate = false},
                64,
                {{1, 0.6890442967414856},
                 {8, 0.05081327259540558},
                 {16, 8.068715396802872e-05},
                 {19, 2.6396468456368893e-05},
                 {31, 3.023511396804679e-07}});
}

TEST(RopeTest, YarnAttentionFactorFollowsMscale) {
  ExpectRelative(YarnAttentionFactor(4, 0, 0), 1.138629436111989, 1e-12);
  ExpectRelative(YarnAttentionFactor(32, 1, 0.5), 1.1476934674947155, 1e-12);
  EXPECT_EQ(YarnAttentionFactor(40, 0.707, 0.707), 1.0);
  EXPECT_EQ(YarnAttentionFactor(1, 0, 0), 1.0);
  EXPECT_EQ(YarnAttentionFactor(0.5, 2, 1), 1.0);
}

TEST(RopeTest, TablesMatchTheReferenceWithTheAttentionFactorFoldedIn) {
  const RopeTables tables = ComputeRopeTables(Yarn(), 128, 1001);
  ASSERT_EQ(tables.cos.size(), 1001u * 64);
  ASSERT_EQ(tables.sin.size(), 1001u * 64);
  EXPECT_NEAR(tables.cos[37 * 64 + 0], 0.8715229630470276, 2e-6);
  EXPECT_NEAR(tables.sin[37 * 64 + 0], -0.7327514290809631, 2e-6);
  EXPECT_NEAR(tables.cos[1000 * 64 + 32], 0.9378564357757568, 2e-6);
  EXPECT_NEAR(tables.sin[1000 * 64 + 32], 0.6456797122955322, 2e-6);
  // 0.80584222 * 1000 radians in float32: one ulp of the angle is 6e-5.
  EXPECT_NEAR(tables.cos[1000 * 64 + 1], -0.026992637664079666, 7e-5);
  EXPECT_NEAR(tables.sin[1000 * 64 + 1], 1.1383094787597656, 7e-5);
}

}  // namespace
}  // namespace moed
