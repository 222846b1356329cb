#include "client/reports.h"

#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include <string>

namespace moed {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

template <typename Message>
Message Parse(const std::string& text) {
  Message message;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &message));
  return message;
}

v1::GetExpertsResponse Experts() {
  return Parse<v1::GetExpertsResponse>(R"(
      placement_epoch: 2 num_experts: 3 top_k: 2 balancedness: 0.75
      rows_per_rank: 100 rows_per_rank: 300 dispatch_bytes: 2048 combine_bytes: 100
      layers { layer: 1 tokens_per_expert: [ 10, 0, 30 ] balancedness: 0.5
               slots { expert_id: 0 rank: 0 } slots { expert_id: 1 rank: 0 }
               slots { expert_id: 2 rank: 1 } slots { expert_id: 0 rank: 1 } }
      layers { layer: 3 tokens_per_expert: [ 0, 0, 0 ]
               slots { expert_id: 0 rank: 0 } slots { expert_id: 1 rank: 1 }
               slots { expert_id: 2 rank: 1 } })");
}

TEST(ExpertsReportTest, ShowsLoadPerRankLayerAndExpert) {
  EXPECT_EQ(FormatExperts(Experts(), {}),
            "3 experts, top 2, placement epoch 2, balancedness 0.750, dispatched 2.0 KiB, "
            "combined 100 B\n"
            "\n"
            "rank  rows  share  load\n"
            "   0   100  25.0%  ###########\n"
            "   1   300  75.0%  ################################\n"
            "\n"
            "layer  slots  tokens  busiest expert  balancedness\n"
            "    1      4      40               2         0.500  ################\n"
            "    3      3       0               -         0.000\n"
            "\n"
            "all layers:\n"
            "expert  ranks  tokens  share  load\n"
            "     0  0,1        10  25.0%  ###########\n"
            "     1  0,1         0   0.0%\n"
            "     2  1          30  75.0%  ################################\n");
}

TEST(ExpertsReportTest, OneLayerCanBeShown) {
  const std::string text = FormatExperts(Experts(), {.layer = 1, .charset = Charset::kUtf8});
  EXPECT_THAT(text, AllOf(HasSubstr("layer 1:\n"), HasSubstr("     1  0           0   0.0%\n"),
                          HasSubstr("█████"), Not(HasSubstr("#"))));
  EXPECT_THAT(FormatExperts(Experts(), {.layer = 2}), HasSubstr("no MoE layer 2\n"));
}

TEST(ExpertsReportTest, AnAnswerThatContradictsItselfIsShownAsFarAsItGoes) {
  const auto experts = Parse<v1::GetExpertsResponse>(R"(
      num_experts: 1 layers { tokens_per_expert: [ 1, 2 ] slots { expert_id: 9 } slots { expert_id: -1 } }
      layers {})");
  EXPECT_THAT(FormatExperts(experts, {}), HasSubstr("     0              1  100.0%"));
  EXPECT_THAT(FormatExperts({}, {}), HasSubstr("0 experts"));
}

TEST(StatusReportTest, ShowsTheStateAndEveryRank) {
  const auto status = Parse<v1::GetStatusResponse>(R"(
      state: SERVING_STATE_RECOVERING model: "tales" version: "0.1.0" uptime_seconds: 90
      num_running_sequences: 2 num_waiting_sequences: 1 num_steps: 10
      prefix_cache_queries: 200 prefix_cache_hits: 50 mean_step_seconds: 0.002
      ranks { rank: 0 up: true pid: 77 device: "cpu" dtype: "int4" num_threads: 2
              weight_bytes: 1048576
              num_blocks: 100 num_free_blocks: 60 num_cached_blocks: 5 weights_loaded_ratio: 1 }
      ranks { rank: 1 up: true pid: 78 weights_loaded_ratio: 0.25 num_restarts: 1 }
      ranks { rank: 2 pid: 79 })");
  const std::string text = FormatStatus(status);
  EXPECT_THAT(text, HasSubstr("tales: recovering, version 0.1.0, up 1m 30s\n"));
  EXPECT_THAT(text, HasSubstr("2 running, 1 waiting"));
  EXPECT_THAT(text, HasSubstr("prefix cache: 25.0% of 200 tokens"));
  EXPECT_THAT(text, AllOf(HasSubstr("int4"), HasSubstr("1.0 MiB"), HasSubstr("40/100"),
                          HasSubstr("loading 25%"), HasSubstr("down")));
}

TEST(UsageReportTest, SpeedIsThatOfDecoding) {
  const auto usage = Parse<v1::Usage>(R"(
      num_prompt_tokens: 7 num_cached_tokens: 3 num_generated_tokens: 11 queue_seconds: 0.001
      time_to_first_token_seconds: 0.5 total_seconds: 1.5)");
  EXPECT_EQ(FormatUsage(usage),
            "7 prompt tokens (3 cached), 11 generated; queued 1.00 ms, first token 500.00 ms, "
            "total 1.50 s, 10.0 tokens/s\n");
  EXPECT_THAT(FormatUsage({}), Not(HasSubstr("tokens/s")));
}

TEST(PiecesReportTest, PartsOfCharactersAreEscaped) {
  v1::TokenizeResponse response;
  response.add_token_ids(5);
  response.add_pieces(" käse\n");
  response.add_token_ids(600);
  response.add_pieces("\xf0\x9f");
  EXPECT_EQ(FormatPieces(response), "       5  \" käse\\n\"\n     600  \"\\360\\237\"\n");
}

TEST(ModelReportTest, NamesWhatIsServed) {
  const auto model = Parse<v1::GetModelResponse>(
      R"(name: "tales" num_layers: 4 num_moe_layers: 4 num_experts: 16 top_k: 4 eos_token_ids: [ 1, 2 ])");
  EXPECT_THAT(FormatModel(model),
              AllOf(HasSubstr("name              tales\n"), HasSubstr("16, top 4\n"),
                    HasSubstr("1, 2\n"), HasSubstr("bos token id      none\n")));
}

TEST(TimingReportTest, ShowsThePartsOfARequestAndOfItsSteps) {
  const std::string text = FormatTiming(Parse<v1::Timing>(R"(
      queue_seconds: 0.5 prefill_seconds: 0.02 decode_seconds: 2
      prefill { num_steps: 1 total: 0.019 attention: 0.01 }
      decode { num_steps: 40 total: 1.9 combine: 0.2 combine_wait: 0.1 })"));
  EXPECT_THAT(text, HasSubstr("passed       500.00 ms  20.00 ms     2.00 s\n"));
  EXPECT_THAT(text, HasSubstr("steps                          1         40\n"));
  EXPECT_THAT(text, HasSubstr("  attention             10.00 ms       0 us\n"));
  EXPECT_THAT(text, HasSubstr("  combine                   0 us  200.00 ms\n"));
  EXPECT_THAT(text, HasSubstr("    waiting                 0 us  100.00 ms\n"));
}

}  // namespace
}  // namespace moed
