#include "server/launch_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "server/plan_report.h"

namespace moed {
namespace {

using ::testing::HasSubstr;

DaemonConfig DemoConfig() {
  DaemonConfig config;
  config.model = MOED_SOURCE_DIR "/config/demo";
  config.ranks = 3;  // 16 experts do not divide by it
  config.memory_limit_gib = 1;
  return config;
}

TEST(LaunchPlanTest, TheDemoModelIsPlannedOverUnevenRanks) {
  const auto plan = MakeLaunchPlan(DemoConfig());
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->placement.num_ranks, 3);
  EXPECT_EQ(plan->memory.ranks.size(), 3u);
  EXPECT_EQ(plan->model.name, "demo");
  EXPECT_EQ(plan->model.max_model_len, 1024);
  EXPECT_EQ(plan->engine.max_model_len, 1024);
  EXPECT_EQ(plan->engine.num_blocks, plan->memory.num_blocks);
  EXPECT_GT(plan->engine.max_exchange_bytes_per_rank, 0);
  EXPECT_LE(plan->memory.total_bytes(), int64_t{1} << 30);
}

TEST(LaunchPlanTest, NumericsAreInvariantUnlessAskedOtherwise) {
  DaemonConfig config = DemoConfig();
  const auto invariant = MakeLaunchPlan(config);
  ASSERT_TRUE(invariant.ok()) << invariant.status();
  EXPECT_EQ(invariant->engine.numerics, kernels::Numerics::kInvariant);
  EXPECT_THAT(DescribePlan(*invariant), HasSubstr("bf16, invariant numerics"));
  EXPECT_THAT(PlanJson(*invariant), HasSubstr("\"numerics\": \"invariant\""));
  config.device = "cuda";
  config.numerics = "fast";
  const auto fast = MakeLaunchPlan(config);
  ASSERT_TRUE(fast.ok()) << fast.status();
  EXPECT_EQ(fast->engine.numerics, kernels::Numerics::kFast);
  EXPECT_THAT(PlanJson(*fast), HasSubstr("\"numerics\": \"fast\""));
}

TEST(LaunchPlanTest, TheDtypeDecidesHowWeightsAreKeptAndWhatTheyNeed) {
  DaemonConfig config = DemoConfig();
  int64_t larger = std::numeric_limits<int64_t>::max();
  using kernels::WeightFormat;
  for (const auto& [dtype, format] : {std::pair("bf16", WeightFormat::kStored),
                                      {"int8", WeightFormat::kInt8},
                                      {"int4", WeightFormat::kInt4}}) {
    config.dtype = dtype;
    const auto plan = MakeLaunchPlan(config);
    ASSERT_TRUE(plan.ok()) << plan.status();
    EXPECT_EQ(plan->engine.weight_format, format);
    EXPECT_EQ(plan->engine.activation_dtype, DType::kBF16);
    EXPECT_EQ(plan->model.dtype, dtype);
    EXPECT_THAT(PlanJson(*plan), HasSubstr(std::string("\"dtype\": \"") + dtype + "\""));
    EXPECT_LT(plan->memory.ranks[2].weight_bytes, larger);
    larger = plan->memory.ranks[2].weight_bytes;
  }
  config.dtype = "int2";
  EXPECT_THAT(std::string(MakeLaunchPlan(config).status().message()), HasSubstr("int2"));
}

TEST(LaunchPlanTest, IdsWithoutATokenAreKnownAsHoles) {
  EXPECT_TRUE(MakeLaunchPlan(DemoConfig())->model.hole_token_ids.empty());
  // The last but one token gets an id beyond the model's: its own becomes a hole.
  std::string directory = "/tmp/moed_launch_plan_test_XXXXXX";
  ASSERT_NE(::mkdtemp(directory.data()), nullptr);
  std::filesystem::copy(MOED_SOURCE_DIR "/config/demo", directory);
  std::string text;
  std::getline(std::ifstream(directory + "/tokenizer.json"), text, '\0');
  const size_t at = text.find(": 4094,");
  ASSERT_NE(at, std::string::npos);
  std::ofstream(directory + "/tokenizer.json") << text.replace(at, 7, ": 4099,");
  DaemonConfig config = DemoConfig();
  config.model = directory;
  const auto plan = MakeLaunchPlan(config);
  std::filesystem::remove_all(directory);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->model.vocab_size, 4096);
  EXPECT_EQ(plan->model.hole_token_ids, std::vector<int32_t>{4094});
}

TEST(LaunchPlanTest, OneRankExchangesNothing) {
  DaemonConfig config = DemoConfig();
  config.ranks = 1;
  const auto plan = MakeLaunchPlan(config);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->engine.max_exchange_bytes_per_rank, 0);
  EXPECT_EQ(plan->memory.ranks[0].exchange_bytes, 0);
}

TEST(LaunchPlanTest, TooLittleMemoryIsRefusedSayingByHowMuch) {
  DaemonConfig config = DemoConfig();
  config.memory_limit_gib = 0.001;
  const absl::Status status = MakeLaunchPlan(config).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("MiB are missing"));
}

TEST(LaunchPlanTest, ALengthBeyondTheModelsIsRefused) {
  DaemonConfig config = DemoConfig();
  config.max_model_len = 1025;
  const absl::Status status = MakeLaunchPlan(config).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("1024 positions"));
}

TEST(LaunchPlanTest, AMissingModelIsNamed) {
  DaemonConfig config = DemoConfig();
  config.model = "/nonexistent/model";
  EXPECT_THAT(std::string(MakeLaunchPlan(config).status().message()),
              HasSubstr("/nonexistent/model"));
}

TEST(LaunchPlanTest, TheServedNameIsTheDirectorysUnlessSet) {
  DaemonConfig config = DemoConfig();
  config.model += "/";
  EXPECT_EQ(MakeLaunchPlan(config)->model.name, "demo");
  config.served_model_name = "tales";
  EXPECT_EQ(MakeLaunchPlan(config)->model.name, "tales");
}

TEST(LaunchPlanTest, TheReportNamesWhatAnOperatorAsksFor) {
  const auto plan = MakeLaunchPlan(DemoConfig());
  ASSERT_TRUE(plan.ok()) << plan.status();
  const std::string text = DescribePlan(*plan);
  for (const char* word : {"weights", "KV", "exchange", "workspace", "experts",
                           "up to 512 tokens and 64 sequences", "1.00 GiB are available"}) {
    EXPECT_THAT(text, HasSubstr(word));
  }
  EXPECT_THAT(PlanJson(*plan), HasSubstr("\"num_ranks\": 3"));
  EXPECT_THAT(PlanJson(*plan), HasSubstr("\"max_experts_per_layer\": 6"));
  EXPECT_THAT(PlanJson(*plan), HasSubstr("\"max_experts_per_layer\": 5"));
}

}  // namespace
}  // namespace moed
