#include "engine/weights/dummy_tensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/weights/weight_loader.h"
#include "tests/fakes/weights_backend.h"

namespace moed {
namespace {

std::vector<uint16_t> Bits(const DummyValuesParams& params, size_t size) {
  std::vector<uint16_t> bits(size);
  FillDummyValues(params, bits);
  return bits;
}

std::vector<float> Values(const DummyValuesParams& params, int64_t size) {
  const std::vector<uint16_t> bits = Bits(params, size);
  return ToFloat({.data = bits.data(), .dtype = DType::kBF16, .rows = 1, .cols = size});
}

TEST(DummyTensorsTest, AnyPartOfATensorHasTheSameValues) {
  const std::vector<uint16_t> whole = Bits({.seed = 1, .name = "w"}, 20000);
  for (const auto& [begin, size] : {std::pair<size_t, size_t>{0, 1},
                                    {1, 2},
                                    {4095, 2},
                                    {4096, 4096},
                                    {4097, 9000},
                                    {19999, 1},
                                    {8191, 8194}}) {
    const std::vector<uint16_t> part = Bits({.seed = 1, .name = "w", .begin = begin}, size);
    const std::vector<uint16_t> same(whole.begin() + begin, whole.begin() + begin + size);
    EXPECT_EQ(part, same) << begin << "+" << size;
  }
}

// Figures that were measured with dummy weights stay comparable.
TEST(DummyTensorsTest, ValuesAreTheOnesTheyHaveAlwaysBeen) {
  EXPECT_THAT(Bits({.seed = 5, .name = "w"}, 8),
              testing::ElementsAre(0x3f54, 0x3f31, 0xbf21, 0x3ed0, 0xbfdc, 0x3f41, 0xbfbb, 0x3f94));
  EXPECT_THAT(Bits({.seed = 5, .name = "w", .begin = 4095}, 2),
              testing::ElementsAre(0xbe12, 0x3fc3));
  uint64_t hash = 0;
  for (const uint16_t bits :
       Bits({.seed = 1, .name = "model.layers.0.w", .standard_deviation = 1.1, .begin = 777},
            100000)) {
    hash = hash * 0x9e3779b97f4a7c15 + bits;
  }
  EXPECT_EQ(hash, 0x7c793ec93a7b7a93);
}

TEST(DummyTensorsTest, SeedAndNameChangeTheValues) {
  const std::vector<uint16_t> base = Bits({.seed = 1, .name = "w"}, 64);
  EXPECT_NE(base, Bits({.seed = 2, .name = "w"}, 64));
  EXPECT_NE(base, Bits({.seed = 1, .name = "v"}, 64));
  EXPECT_NE(base, Bits({.seed = 1, .name = "w", .begin = 4096}, 64));
}

TEST(DummyTensorsTest, ValuesHaveTheWantedMomentsAndNoCorrelation) {
  const int64_t size = 1 << 18;
  const std::vector<float> x = Values({.seed = 3, .name = "w", .standard_deviation = 0.25}, size);
  double sum = 0, squares = 0, neighbours = 0, across_chunks = 0;
  for (int64_t i = 0; i + 4096 < size; ++i) {
    sum += x[i];
    squares += x[i] * x[i];
    neighbours += x[i] * x[i + 1];
    across_chunks += x[i] * x[i + 4096];
  }
  const double n = static_cast<double>(size - 4096);
  EXPECT_NEAR(sum / n, 0, 0.003);
  EXPECT_NEAR(std::sqrt(squares / n), 0.25, 0.001);
  EXPECT_NEAR(neighbours / n, 0, 0.001);
  EXPECT_NEAR(across_chunks / n, 0, 0.001);
}

ModelConfig SmallConfig() {
  ModelConfig config;
  config.family = ModelFamily::kQwen3Moe;
  config.vocab_size = 50;
  config.hidden_size = 64;
  config.num_layers = 2;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 16;
  config.qk_norm = QkNormKind::kPerHead;
  config.num_experts = 6;
  config.top_k = 2;
  config.moe_intermediate_size = 32;
  config.layer_is_moe = {true, true};
  return config;
}

const FakeExperts& Experts(const ModelWeights& weights) {
  return dynamic_cast<const FakeExperts&>(*weights.layers[1].experts);
}

ModelWeights LoadDummy(const ExpertPlacement& placement, int32_t rank, WeightsBackend& backend) {
  const WeightLoaderOptions options = {.format = LoadFormat::kDummy, .dummy_seed = 9, .rank = rank};
  auto weights = LoadWeights(SmallConfig(), placement, options, backend);
  EXPECT_TRUE(weights.ok()) << weights.status();
  return *std::move(weights);
}

TEST(DummyTensorsTest, ExpertsAreTheSameAtAnyNumberOfRanks) {
  WeightsBackend backend;
  const ModelWeights whole = LoadDummy(ExpertPlacement::Linear(2, 6, 1), 0, backend);
  ASSERT_EQ(Experts(whole).experts.size(), 6u);
  EXPECT_NE(Experts(whole).experts[0].gate, Experts(whole).experts[1].gate);
  EXPECT_NE(Experts(whole).experts[0].gate, Experts(whole).experts[0].up);
  for (int32_t rank = 0; rank < 4; ++rank) {
    const ModelWeights part = LoadDummy(ExpertPlacement::RoundRobin(2, 6, 4), rank, backend);
    for (size_t slot = 0; slot < Experts(part).experts.size(); ++slot) {
      EXPECT_TRUE(Experts(part).experts[slot] == Experts(whole).experts[rank + 4 * slot]);
    }
  }
}

TEST(DummyTensorsTest, MemoryOfReleasedMatricesServesAgain) {
  ModelConfig config;
  config.embedding_multiplier = 1;
  DummyTensors source(config, 1);
  const MatrixRef a = {"a", {3, 50}, WeightRole::kInput, 0, 3, 50};
  const MatrixRef b = {"b", {50, 3}, WeightRole::kInput, 0, 50, 3};
  const kernels::HostMatrix first = source.Read(a);
  const std::vector<float> values = ToFloat(first);
  EXPECT_NE(source.Read(b).data, first.data);
  EXPECT_EQ(ToFloat(first), values);
  source.Release();
  const void* const reused = source.Read(b).data;
  const kernels::HostMatrix again = source.Read(a);
  EXPECT_NE(again.data, reused);
  EXPECT_TRUE(again.data == first.data || reused == first.data);
  EXPECT_EQ(ToFloat(again), values);
}

TEST(DummyTensorsTest, NormsAreOneAndMatricesKeepHiddenStatesOfOrderOne) {
  WeightsBackend backend;
  const ModelWeights weights = LoadDummy(ExpertPlacement::Linear(2, 6, 1), 0, backend);
  for (int i = 0; i < 64; ++i) EXPECT_EQ(weights.layers[0].input_norm.as<float>()[i], 1.0f);
  const auto rms = [](const std::vector<float>& x) {
    double squares = 0;
    for (const float value : x) squares += value * value;
    return std::sqrt(squares / static_cast<double>(x.size()));
  };
  EXPECT_NEAR(rms(dynamic_cast<const FakeLinear&>(*weights.embedding).values), 1.0, 0.05);
  EXPECT_NEAR(rms(dynamic_cast<const FakeLinear&>(*weights.layers[0].qkv).values), 0.125, 0.005);
  EXPECT_NEAR(rms(dynamic_cast<const FakeLinear&>(*weights.layers[0].o_proj).values), 0.025, 0.001);
  EXPECT_NEAR(rms(Experts(weights).experts[0].down), 0.2 / std::sqrt(32.0), 0.002);
}

}  // namespace
}  // namespace moed
