#include "engine/model/decoder_model.h"

#include <cmath>
#include <memory>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/bare_model.h"
#include "tests/fakes/tiny_model.h"

namespace moed {
namespace {

/// Logits of the tiny model with dummy weights in f32, for 20 fixed tokens: [20, V].
std::vector<float> LogitsOf(const ModelConfig& config) {
  const auto model = BareModel::Create({.config = config,
                                        .loader = {.format = LoadFormat::kDummy, .dummy_seed = 3},
                                        .backend = {.activation_dtype = DType::kF32}});
  EXPECT_TRUE(model.ok()) << model.status();
  if (!model.ok()) return {};
  const std::vector<int32_t> tokens = RandomTokens(20, static_cast<int32_t>(config.vocab_size), 1);
  const auto logits = (*model)->Logits(tokens, 0);
  EXPECT_TRUE(logits.ok()) << logits.status();
  return logits.ok() ? *logits : std::vector<float>();
}

double LargestDifference(const std::vector<float>& a, const std::vector<float>& b) {
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) largest = std::max<double>(largest, std::abs(a[i] - b[i]));
  return largest;
}

TEST(DecoderModelTest, DividesLogitsByTheirScaling) {
  ModelConfig config = TinyModelConfig();
  std::vector<float> plain = LogitsOf(config);
  config.logits_scaling = 6.0;
  const std::vector<float> scaled = LogitsOf(config);
  ASSERT_EQ(plain.size(), scaled.size());
  ASSERT_FALSE(plain.empty());
  for (size_t i = 0; i < plain.size(); ++i) {
    EXPECT_NEAR(scaled[i], plain[i] / 6.0f, 1e-5f * (1.0f + std::abs(plain[i])));
  }
}

TEST(DecoderModelTest, EveryMultiplierAndNormMatters) {
  const ModelConfig config = TinyModelConfig();
  const std::vector<float> plain = LogitsOf(config);
  ASSERT_FALSE(plain.empty());
  const auto differs = [&](auto change) {
    ModelConfig changed = config;
    change(changed);
    EXPECT_GT(LargestDifference(plain, LogitsOf(changed)), 1e-3);
  };
  differs([](ModelConfig& c) { c.embedding_multiplier = 3.0; });
  differs([](ModelConfig& c) { c.residual_multiplier = 0.25; });
  differs([](ModelConfig& c) { c.attention_scale = 2.0; });
  differs([](ModelConfig& c) { c.qk_norm = QkNormKind::kNone; });
  differs([](ModelConfig& c) { c.clip_qkv = 0.1; });
  differs([](ModelConfig& c) { c.rope.theta = 10.0; });
  differs([](ModelConfig& c) { c.rope.attention_factor = 1.5; });
  differs([](ModelConfig& c) { c.norm_topk_prob = false; });
}

TEST(DecoderModelTest, RunsAModelWithoutMoeLayers) {
  ModelConfig config = TinyModelConfig();
  config.layer_is_moe.assign(config.num_layers, false);
  const std::vector<float> logits = LogitsOf(config);
  ASSERT_FALSE(logits.empty());
  for (float logit : logits) ASSERT_TRUE(std::isfinite(logit));
}

TEST(DecoderModelTest, LogitsOfAPositionDependOnTheTokensBeforeIt) {
  const ModelConfig config = TinyModelConfig();
  const auto model = BareModel::Create({.config = config,
                                        .loader = {.format = LoadFormat::kDummy, .dummy_seed = 3},
                                        .backend = {.activation_dtype = DType::kF32}});
  ASSERT_TRUE(model.ok()) << model.status();
  const std::vector<int32_t> one = {5, 6, 7, 8};
  const std::vector<int32_t> other = {5, 6, 9, 8};
  const auto a = (*model)->Logits(one, 0);
  const auto b = (*model)->Logits(other, 0);
  ASSERT_TRUE(a.ok() && b.ok());
  const size_t same = 2 * config.vocab_size;
  EXPECT_TRUE(std::equal(a->begin(), a->begin() + same, b->begin()));
  const std::vector<float> last_a(a->end() - config.vocab_size, a->end());
  const std::vector<float> last_b(b->end() - config.vocab_size, b->end());
  EXPECT_GT(LargestDifference(last_a, last_b), 1e-3);
}

}  // namespace
}  // namespace moed
