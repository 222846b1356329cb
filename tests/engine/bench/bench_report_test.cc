#include "engine/bench/bench_report.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace moed {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

/// Two repetitions of two mixed steps on one rank: 20 prompt and 10 decoded tokens in 1 s and in
/// 2 s, while the machine reads 4 GB/s.
BenchReport MixedReport() {
  const StepLoad load{.num_prompt_tokens = 20,
                      .num_decoded_tokens = 10,
                      .num_sampled = 10,
                      .num_working_ranks = 2,
                      .num_sampling_ranks = 2,
                      .num_kv_positions = 100,
                      .num_attention_pairs = 300};
  TestSample sample{.load = load,
                    .num_steps = 2,
                    .seconds = 1,
                    .times = {.attention = 0.5, .attention_kv = 0.125, .head = 0.25},
                    .distinct_experts = 3,
                    .balancedness = 1,
                    .read_bytes_per_s = 4e9};
  BenchReport report;
  report.options.shared_prompt = true;
  report.options.num_prompt_tokens = 20;
  report.config.vocab_size = 1000;
  report.config.hidden_size = 100;
  report.config.num_experts = 4;
  report.config.top_k = 1;
  report.engines.resize(1);
  report.tests = {{.test = BenchTest::kMixed, .batch = 5, .samples = {sample, sample}}};
  report.tests[0].samples[1].seconds = 2;
  report.ceilings = {.num_threads = 2,
                     .read_bytes_per_s = 8e9,
                     .read_method = "plain",
                     .f32_ops_per_s = 1e9,
                     .bf16_ops_per_s = 2e9};
  return report;
}

TEST(BenchReportTest, JsonHasTheDocumentedKeysOfATest) {
  const nlohmann::json json = nlohmann::json::parse(FormatJson(MixedReport()), nullptr, false);
  ASSERT_FALSE(json.is_discarded());
  EXPECT_EQ(json["ceilings"]["read_bytes_per_second"], 8e9);
  ASSERT_EQ(json["results"].size(), 1u);
  const nlohmann::json& test = json["results"][0];
  EXPECT_EQ(test["test"], "mixed");
  EXPECT_EQ(test["batch"], 5);
  EXPECT_EQ(test["prompt"], 20);
  EXPECT_EQ(test["shared_prompt"], true);
  EXPECT_EQ(test["samples"], nlohmann::json({30.0, 15.0}));
  EXPECT_EQ(test["tokens_per_second"], 22.5);
  EXPECT_EQ(test["min_tokens_per_second"], 15.0);
  EXPECT_EQ(test["max_tokens_per_second"], 30.0);
  EXPECT_DOUBLE_EQ(test["prompt_tokens_per_second"], 15.0);
  EXPECT_DOUBLE_EQ(test["decoded_tokens_per_second"], 7.5);
  EXPECT_EQ(test["distinct_experts"], 3.0);
  EXPECT_EQ(test["machine_read_bytes_per_second"], nlohmann::json({4e9, 4e9}));
  // In 0.5 s of 2 steps: 125 ms of attention proper.
  EXPECT_DOUBLE_EQ(test["stage_ms_per_step"]["attention"], 62.5);
  EXPECT_DOUBLE_EQ(test["stage_ms_per_step"]["projections"], 187.5);
}

TEST(BenchReportTest, JsonHasRatesAndSharesOfEveryStage) {
  const nlohmann::json json = nlohmann::json::parse(FormatJson(MixedReport()), nullptr, false);
  const nlohmann::json& stages = json["results"][0]["stages"];
  ASSERT_EQ(stages.size(), 6u);
  const nlohmann::json& head = stages[4];
  EXPECT_EQ(head["stage"], "head");
  EXPECT_DOUBLE_EQ(head["ms_per_step"], 125.0);
  EXPECT_DOUBLE_EQ(head["bytes_read_per_step"], 2e5);
  EXPECT_DOUBLE_EQ(head["operations_per_step"], 5 * 2e5);
  EXPECT_DOUBLE_EQ(head["read_bytes_per_second"], 1.6e6);
  EXPECT_DOUBLE_EQ(head["share_of_read_ceiling"], 1.6e6 / 4e9);
  EXPECT_DOUBLE_EQ(head["share_of_arithmetic_ceiling"], 8e6 / 2e9);
  EXPECT_DOUBLE_EQ(head["share_of_bound"], 8e6 / 2e9);
  EXPECT_EQ(stages[5]["stage"], "total");
}

TEST(BenchReportTest, WithoutCeilingsThereAreRatesButNoShares) {
  BenchReport report = MixedReport();
  report.ceilings = {};
  for (TestSample& sample : report.tests[0].samples) sample.read_bytes_per_s = 0;
  const nlohmann::json json = nlohmann::json::parse(FormatJson(report), nullptr, false);
  EXPECT_FALSE(json.contains("ceilings"));
  const nlohmann::json& head = json["results"][0]["stages"][4];
  EXPECT_DOUBLE_EQ(head["read_bytes_per_second"], 1.6e6);
  EXPECT_FALSE(head.contains("share_of_bound"));
  EXPECT_THAT(FormatTables(report), Not(HasSubstr("machine")));
}

TEST(BenchReportTest, TablesSayBothRatesOfAMixedTestAndTheMachinesLimits) {
  const std::string text = FormatTables(MixedReport());
  EXPECT_THAT(text, HasSubstr("prompt 15.0 and decoding 7.5 tokens/s"));
  EXPECT_THAT(text, HasSubstr("read 8.0 GB/s (plain)"));
  EXPECT_THAT(text, HasSubstr("(the machine at that time: read 4.0 GB/s)"));
}

}  // namespace
}  // namespace moed
