#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "config/model_config.h"

namespace moed {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(GenerationDefaultsTest, ReadsWhatTheFileSays) {
  const absl::StatusOr<GenerationDefaults> defaults = ParseGenerationDefaults(
      R"({"do_sample": true, "temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": 0.05,
          "repetition_penalty": 1.1, "eos_token_id": [151645, 151643]})");
  ASSERT_TRUE(defaults.ok()) << defaults.status();
  EXPECT_EQ(*defaults, (GenerationDefaults{.temperature = 0.6,
                                           .top_p = 0.95,
                                           .top_k = 20,
                                           .min_p = 0.05,
                                           .repetition_penalty = 1.1,
                                           .eos_token_ids = {151645, 151643}}));
}

TEST(GenerationDefaultsTest, WithoutSamplingTheTemperatureIsZero) {
  EXPECT_EQ(ParseGenerationDefaults(R"({"do_sample": false, "temperature": 0.6})")->temperature, 0);
  EXPECT_EQ(*ParseGenerationDefaults("{}"), GenerationDefaults());
}

TEST(GenerationDefaultsTest, ValuesOutOfRangeAreRefusedByName) {
  const absl::Status status = ParseGenerationDefaults(R"({"top_p": 1.5})").status();
  EXPECT_EQ(status.message(),
            "generation_config.json: key 'top_p': expected a number from 1e-06 to 1, got 1.5");
  for (const char* text : {R"({"top_p": 0})", R"({"min_p": 1})", R"({"repetition_penalty": 0})"}) {
    EXPECT_FALSE(ParseGenerationDefaults(text).ok()) << text;
  }
}

std::string FixtureDir(const std::string& name) {
  return std::string(MOED_SOURCE_DIR) + "/tests/testdata/models/" + name;
}

TEST(LoadModelConfigTest, EveryFixtureIsReadInItsSpelling) {
  int num_read = 0;
  for (const auto& entry : std::filesystem::directory_iterator(FixtureDir(""))) {
    if (!entry.is_directory()) continue;
    const std::string name = entry.path().filename();
    const absl::StatusOr<ModelConfig> config = LoadModelConfig(entry.path());
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_THAT(name, testing::StartsWith(config->model_type));
    EXPECT_EQ(config->vocab_size, 128);
    ++num_read;
  }
  EXPECT_GE(num_read, 20);
}

TEST(LoadModelConfigTest, ReadsTheFeaturesOfFixtures) {
  const ModelConfig dense = *LoadModelConfig(FixtureDir("qwen3_moe_dense_layers"));
  EXPECT_THAT(dense.layer_is_moe, ElementsAre(false, true, false));
  EXPECT_EQ(dense.dense_intermediate_size, 56);
  EXPECT_EQ(dense.head_dim, 24);
  EXPECT_EQ(dense.rope.type, RopeType::kYarn);
  EXPECT_EQ(dense.rope.original_max_positions, 32);
  const ModelConfig fused = *LoadModelConfig(FixtureDir("qwen3_moe_fused"));
  EXPECT_EQ(fused.rope.type, RopeType::kLlama3);
  EXPECT_TRUE(fused.o_bias);
  EXPECT_EQ(LoadModelConfig(FixtureDir("olmoe_clip_and_bias"))->clip_qkv, 0.75);
  EXPECT_TRUE(LoadModelConfig(FixtureDir("qwen2_moe_fused"))->qkv_bias);
  EXPECT_FALSE(LoadModelConfig(FixtureDir("qwen2_moe_dense_layers"))->qkv_bias);
  EXPECT_EQ(LoadModelConfig(FixtureDir("granitemoe_bias"))->residual_multiplier, 1);
}

TEST(LoadModelConfigTest, EndOfSequenceIdsOfBothFilesAreMerged) {
  EXPECT_THAT(LoadModelConfig(FixtureDir("qwen3_moe_basic"))->eos_token_ids, ElementsAre(2, 3));
  EXPECT_EQ(LoadGenerationDefaults(FixtureDir("qwen3_moe_basic"))->temperature, 0.6);
}

TEST(LoadModelConfigTest, ADirectoryWithoutConfigIsNotFound) {
  const absl::Status status = LoadModelConfig("/nonexistent").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("/nonexistent/config.json"));
}

}  // namespace
}  // namespace moed
