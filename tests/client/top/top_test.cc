#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_join.h"
#include "client/text_table.h"
#include "client/top/heat_map.h"
#include "client/top/top_rates.h"
#include "client/top/top_view.h"

namespace moed {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Le;
using ::testing::Not;
using ::testing::SizeIs;

TopSnapshot Snapshot(double seconds, const std::string& status, const std::string& experts) {
  TopSnapshot snapshot{.seconds = seconds};
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(status, &snapshot.status));
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(experts, &snapshot.experts));
  return snapshot;
}

TopSnapshot Before() {
  return Snapshot(10, R"(num_generated_tokens: 100 num_prompt_tokens: 50 num_steps: 10
      prefix_cache_queries: 10 prefix_cache_hits: 5
      seconds { total: 1 plan: 0.1 attention: 0.5 experts: 0.2 }
      ranks { rank: 0 num_expert_rows: 1000 seconds { total: 1 combine_wait: 0.1 } }
      ranks { rank: 1 num_expert_rows: 2000 seconds { total: 1 } })",
                  R"(num_experts: 2 dispatch_bytes: 1000
      layers { layer: 3 tokens_per_expert: [ 10, 20 ]
               slots { expert_id: 0 rank: 0 } slots { expert_id: 1 rank: 1 } })");
}

TopSnapshot Now() {
  return Snapshot(12, R"(model: "tales" version: "1.0" state: SERVING_STATE_SERVING
      uptime_seconds: 75 num_running_sequences: 3 num_waiting_sequences: 1 num_preemptions: 7
      num_generated_tokens: 300 num_prompt_tokens: 50 num_steps: 30 num_finished_requests: 4
      prefix_cache_queries: 30 prefix_cache_hits: 10
      seconds { total: 2 plan: 0.12 attention: 0.75 experts: 0.7 }
      ranks { rank: 0 up: true num_blocks: 10 num_free_blocks: 5 num_running_sequences: 2
              num_expert_rows: 1300 seconds { total: 2 combine_wait: 0.6 } }
      ranks { rank: 1 num_blocks: 10 num_free_blocks: 10
              num_expert_rows: 2100 seconds { total: 1.5 } })",
                  R"(num_experts: 2 dispatch_bytes: 3000
      layers { layer: 3 tokens_per_expert: [ 40, 30 ]
               slots { expert_id: 0 rank: 0 } slots { expert_id: 1 rank: 1 } })");
}

TEST(TopRatesTest, TotalsBecomeRatesPerSecondAndPerStep) {
  const TopRates rates = RatesBetween(Before(), Now());
  EXPECT_EQ(rates.seconds, 2);
  EXPECT_EQ(rates.generated_tokens, 100);
  EXPECT_EQ(rates.prompt_tokens, 0);
  EXPECT_EQ(rates.finished_requests, 2);
  EXPECT_EQ(rates.steps, 10);
  EXPECT_EQ(rates.exchange_bytes, 1000);
  EXPECT_DOUBLE_EQ(rates.step_seconds, 0.05);
  EXPECT_NEAR(rates.plan_seconds, 0.001, 1e-12);
  EXPECT_EQ(rates.cache_hit_ratio, 0.25);
}

TEST(TopRatesTest, RanksShowTheirRowsAndWhatTheyWaitedFor) {
  const TopRates rates = RatesBetween(Before(), Now());
  ASSERT_THAT(rates.ranks, SizeIs(2));
  EXPECT_EQ(rates.ranks[0].rows, 150);
  EXPECT_EQ(rates.ranks[0].busy_ratio, 0.5);
  EXPECT_EQ(rates.ranks[0].wait_ratio, 0.5);
  EXPECT_EQ(rates.ranks[1].rows, 50);
  EXPECT_EQ(rates.balancedness, 100.0 / 150);
}

TEST(TopRatesTest, WhatNoStageNamesIsOther) {
  const TopRates rates = RatesBetween(Before(), Now());
  EXPECT_EQ(rates.stages.front().first, "attention");
  EXPECT_DOUBLE_EQ(rates.stages.front().second, 0.25);
  EXPECT_EQ(rates.stages.back().first, "other");
  EXPECT_DOUBLE_EQ(rates.stages.back().second, 0.25);
}

TEST(TopRatesTest, ExpertsCountWhatIsNewAndALayerItsBalance) {
  const TopRates rates = RatesBetween(Before(), Now());
  ASSERT_THAT(rates.layers, SizeIs(1));
  EXPECT_EQ(rates.layers[0].layer, 3);
  EXPECT_THAT(rates.layers[0].tokens, ElementsAre(30, 10));
  EXPECT_DOUBLE_EQ(rates.layers[0].balancedness, 20.0 / 30);
}

TEST(TopRatesTest, ATotalThatWasResetIsAllNew) {
  TopSnapshot now = Now();
  now.experts.mutable_layers(0)->set_tokens_per_expert(0, 4);
  EXPECT_THAT(RatesBetween(Before(), now).layers[0].tokens, ElementsAre(4, 10));
}

TEST(TopRatesTest, AServerThatContradictsItselfGivesNoLoad) {
  for (const auto& [expert, rank] : {std::pair(2, 0), {-1, 0}, {0, 2}, {0, -1}}) {
    TopSnapshot now = Now();
    now.experts.mutable_layers(0)->mutable_slots(0)->set_expert_id(expert);
    now.experts.mutable_layers(0)->mutable_slots(0)->set_rank(rank);
    EXPECT_THAT(RatesBetween(Before(), now).layers, IsEmpty());
  }
  TopSnapshot now = Now();
  now.experts.mutable_layers(0)->add_tokens_per_expert(1);
  EXPECT_THAT(RatesBetween(Before(), now).layers, IsEmpty());
}

std::vector<std::string> Draw(const TopScreen& screen) {
  const TopSnapshot now = Now();
  const std::vector<double> history = {0, 50, 100};
  return DrawTop({.server = "localhost:1",
                  .status = now.status,
                  .rates = RatesBetween(Before(), now),
                  .history = history,
                  .error = ""},
                 screen);
}

TEST(TopViewTest, APictureShowsRequestsTokensMemoryRanksAndExperts) {
  EXPECT_EQ(absl::StrJoin(Draw({.columns = 100}), "\n"),
            R"(tales  serving  up 1m 15s  version 1.0  at localhost:1
requests  3 running, 1 waiting, 2.0/s finished, 7 preemptions
tokens/s  100 generated, 0 of prompts  _=#
KV cache  ###......... 25% used, 25% of prompts found in the prefix cache
steps     10/s of 50.00 ms, planning 1000 us; exchange 1000 B/s
spent on  attention 25% route 0% dispatch 0% experts 50% combine 0% head 0% sampling 0% other 25%

rank  state  running     KV  busy  waiting  rows/s  share of the busiest
   0  up           2  50.0%   50%      50%     150  ############
   1  down         0   0.0%   25%       0%      50  ####........
balancedness 0.667 (mean / max of rows per rank)

  layer  experts
      3  ***---  0.667    0
         rows of an expert, times the mean of its layer: 0  .:-=+*#%@ 4)");
}

TEST(TopViewTest, NoPictureIsLargerThanItsScreen) {
  for (const Charset charset : {Charset::kAscii, Charset::kUtf8}) {
    for (int columns = 1; columns < 130; columns += 7) {
      for (int rows = 1; rows < 20; ++rows) {
        const auto lines = Draw({.columns = columns, .rows = rows, .charset = charset});
        EXPECT_THAT(lines, SizeIs(Le(rows)));
        for (const std::string& line : lines) EXPECT_THAT(DisplayWidth(line), Le(columns)) << line;
      }
    }
  }
}

TEST(TopViewTest, WithoutColoursThereIsNoEscapeSequence) {
  EXPECT_THAT(Draw({.charset = Charset::kUtf8}), Each(Not(HasSubstr("\x1b"))));
  EXPECT_THAT(absl::StrJoin(Draw({.colors = Colors::k256}), "\n"), HasSubstr("\x1b[48;5;"));
}

TEST(TopViewTest, ACutLineEndsItsColours) {
  for (const std::string& line : Draw({.columns = 12, .colors = Colors::k256})) {
    const size_t last = line.rfind('\x1b');
    if (last == std::string::npos) continue;
    EXPECT_EQ(line.substr(last, 4), "\x1b[0m") << line;
  }
}

TEST(TopViewTest, WhatAServerSaysCannotMoveTheCursor) {
  TopSnapshot now = Now();
  now.status.set_model(
      "\x1b[2J\x07"
      "evil\n");
  const auto lines = DrawTop({.server = "x",
                              .status = now.status,
                              .rates = {.ranks = {{}, {}}},
                              .history = {},
                              .error = "\x1b[31mred"},
                             {});
  EXPECT_THAT(lines, Each(Not(HasSubstr("\x1b"))));
  EXPECT_THAT(lines, Each(Not(HasSubstr("\x07"))));
}

TEST(HeatMapTest, ManyExpertsShareACellAndManyLayersALine) {
  std::vector<LayerLoad> layers;
  for (int32_t layer = 0; layer < 40; ++layer) {
    layers.push_back({.layer = layer, .tokens = std::vector<double>(256, 1.0), .balancedness = 1});
  }
  layers[39].tokens[255] = 1000;
  layers[39].balancedness = 0.25;
  const auto lines = DrawHeatMap(layers, {.columns = 80}, 12);
  EXPECT_THAT(lines, SizeIs(Le(12)));
  EXPECT_THAT(lines, SizeIs(::testing::Ge(10)));
  EXPECT_THAT(lines[0], HasSubstr("5 to a cell"));
  EXPECT_THAT(lines[1], HasSubstr("0-3"));
  EXPECT_THAT(lines[lines.size() - 2], HasSubstr("@  0.250  255"));
}

TEST(HeatMapTest, ThereIsNoneWithoutLayersOrRoom) {
  const std::vector<LayerLoad> layers = {{.layer = 0, .tokens = {1, 2}}};
  EXPECT_THAT(DrawHeatMap({}, {}, 10), IsEmpty());
  EXPECT_THAT(DrawHeatMap(layers, {}, 2), IsEmpty());
  EXPECT_THAT(DrawHeatMap(layers, {}, 3), SizeIs(3));
}

}  // namespace
}  // namespace moed
