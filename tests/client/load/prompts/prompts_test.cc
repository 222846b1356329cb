#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <set>
#include <sstream>
#include <string>

#include "client/load/prompts/expert_tilt.h"
#include "client/load/prompts/prompt_file.h"
#include "client/load/prompts/prompt_source.h"
#include "client/load/prompts/skewed_prompts.h"

namespace moed::load {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

Distribution Lengths(const char* text) { return Distribution::Parse(text, 1, 100000).value(); }

LengthParams Params(const char* input, const char* output) {
  return {.input = Lengths(input), .output = Lengths(output), .seed = 5};
}

TEST(RandomPromptsTest, HaveTheExactLengthsAndNoExcludedToken) {
  TokenRange tokens;
  tokens.vocab_size = 10;
  tokens.excluded = {2, 3};
  const RandomPrompts prompts({.tokens = tokens, .lengths = Params("50", "7")});
  for (int64_t i = 0; i < 100; ++i) {
    const Prompt prompt = prompts.Make({.index = i});
    ASSERT_EQ(prompt.token_ids.size(), 50u);
    ASSERT_EQ(prompt.max_tokens, 7);
    for (const int32_t id : prompt.token_ids) {
      ASSERT_TRUE(id >= 0 && id < 10 && id != 2 && id != 3) << id;
    }
  }
}

TEST(RandomPromptsTest, TheSameRequestGetsTheSamePromptAndAnotherOneAnother) {
  const RandomPrompts prompts({.tokens = {.vocab_size = 1000}, .lengths = Params("8..64", "1..9")});
  EXPECT_EQ(prompts.Make({.index = 3}).token_ids, prompts.Make({.index = 3}).token_ids);
  EXPECT_NE(prompts.Make({.index = 3}).token_ids, prompts.Make({.index = 4}).token_ids);
}

TEST(RandomPromptsTest, AFamilySharesItsPrefixAndTheFirstOneIsTheMostFrequent) {
  const RandomPrompts prompts({.tokens = {.vocab_size = 1000},
                               .lengths = Params("4", "1"),
                               .num_families = 3,
                               .prefix_tokens = 20,
                               .family_skew = 1});
  std::map<std::vector<int32_t>, int> counts;
  for (int64_t i = 0; i < 3000; ++i) {
    const Prompt prompt = prompts.Make({.index = i});
    ASSERT_EQ(prompt.token_ids.size(), 24u);
    ++counts[{prompt.token_ids.begin(), prompt.token_ids.begin() + 20}];
  }
  ASSERT_EQ(counts.size(), 3u);
  std::vector<int> sorted;
  for (const auto& [prefix, count] : counts) sorted.push_back(count);
  std::sort(sorted.rbegin(), sorted.rend());
  EXPECT_NEAR(sorted[0], 3000 / (11.0 / 6), 120);  // 1 : 1/2 : 1/3
  EXPECT_NEAR(sorted[2], 3000 / (11.0 / 6) / 3, 100);
  EXPECT_EQ(prompts.Make({.index = 1, .turn = 1}).token_ids.size(), 4u);  // once a conversation
}

TEST(TracePromptsTest, EqualBlockHashesGiveEqualBlocks) {
  const TracePrompts prompts(
      {.vocab_size = 1000},
      {{.num_prompt_tokens = 1030, .num_output_tokens = 3, .block_hashes = {7, 8, 9}},
       {.num_prompt_tokens = 600, .num_output_tokens = 4, .block_hashes = {7, 5}}},
      1);
  const Prompt first = prompts.Make({.index = 0});
  const Prompt second = prompts.Make({.index = 1});
  ASSERT_EQ(first.token_ids.size(), 1030u);
  ASSERT_EQ(second.token_ids.size(), 600u);
  EXPECT_EQ(second.max_tokens, 4);
  EXPECT_TRUE(
      std::equal(first.token_ids.begin(), first.token_ids.begin() + 512, second.token_ids.begin()));
  EXPECT_NE(first.token_ids[512], second.token_ids[512]);
}

TEST(PooledPromptsTest, GiveTheTurnsOfOneConversationInOrder) {
  const PooledPrompts prompts({{{.text = "a1"}, {.text = "a2", .output_tokens = 9}}},
                              Params("1", "5"));
  EXPECT_EQ(prompts.Make({.session = 4, .turn = 0}).text, "a1");
  EXPECT_EQ(prompts.Make({.session = 4, .turn = 1}).text, "a2");
  EXPECT_EQ(prompts.Make({.session = 4, .turn = 1}).max_tokens, 9);
  EXPECT_EQ(prompts.Make({.session = 4, .turn = 2}).text, "a1");
  EXPECT_EQ(prompts.Make({.session = 4, .turn = 0}).max_tokens, 5);
}

TEST(TextPromptsTest, StartAtALineAndHaveTheExactLength) {
  const TextPrompts prompts({{10, 11, 12}, {}, {20, 21}}, Params("7", "2"));
  std::set<int32_t> firsts;
  for (int64_t i = 0; i < 50; ++i) {
    const Prompt prompt = prompts.Make({.index = i});
    ASSERT_EQ(prompt.token_ids.size(), 7u);
    firsts.insert(prompt.token_ids[0]);
    if (prompt.token_ids[0] == 20) {
      EXPECT_THAT(prompt.token_ids, ElementsAre(20, 21, 10, 11, 12, 20, 21));
    }
  }
  EXPECT_THAT(firsts, ElementsAre(10, 20));
}

TEST(RepeatedPromptsTest, ComeAgainWithTheirNumbers) {
  auto random = std::make_unique<RandomPrompts>(
      RandomPrompts::Params{.tokens = {.vocab_size = 1000}, .lengths = Params("9", "9")});
  const RepeatedPrompts prompts(std::move(random), 4);
  EXPECT_EQ(prompts.Make({.index = 6}).id, 2);
  EXPECT_EQ(prompts.Make({.index = 6}).token_ids, prompts.Make({.index = 2}).token_ids);
  EXPECT_NE(prompts.Make({.index = 6}).token_ids, prompts.Make({.index = 3}).token_ids);
}

TEST(PromptFileTest, ReadsTextsTokenIdsAndOutputLengths) {
  std::istringstream in(
      "\"just text\"\n\n{\"prompt\": \"with length\", \"output_len\": 12}\n"
      "{\"token_ids\": [1, 2, 3], \"max_tokens\": 4}\n");
  const auto prompts = ReadPromptLines(in, "f");
  ASSERT_TRUE(prompts.ok()) << prompts.status();
  ASSERT_EQ(prompts->size(), 3u);
  EXPECT_EQ((*prompts)[0].text, "just text");
  EXPECT_EQ((*prompts)[1].output_tokens, 12);
  EXPECT_THAT((*prompts)[2].token_ids, ElementsAre(1, 2, 3));
}

TEST(PromptFileTest, NamesTheLineThatIsWrong) {
  const auto error_of = [](const std::string& text) {
    std::istringstream in(text);
    return std::string(ReadPromptLines(in, "f").status().message());
  };
  EXPECT_THAT(error_of("\"a\"\n{\"prompt\": 5}\n"), StartsWith("f:2: holds neither"));
  EXPECT_THAT(error_of("\"a\"\n\n[1]\n"), StartsWith("f:3: expected a JSON string or object"));
  EXPECT_THAT(error_of("{\"prompt\""), StartsWith("f:1: "));
  EXPECT_THAT(error_of("{\"token_ids\": [1, -2]}"), HasSubstr("no token id"));
  EXPECT_THAT(error_of("{\"prompt\": \"a\", \"output_len\": 0}"), HasSubstr("output_len is 0"));
  EXPECT_THAT(error_of("\n"), HasSubstr("holds no prompt"));
}

TEST(PromptFileTest, ReadsShareGptsQuestionsAndAnswers) {
  std::istringstream in(R"([
    {"conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "q1"},
                       {"from": "gpt", "value": "a1"}, {"from": "human", "value": "q2"},
                       {"from": "gpt", "value": "a2"}]},
    {"id": "x", "conversations": [{"from": "gpt", "value": "an answer to nothing"}]}])");
  const auto conversations = ReadShareGpt(in, "f");
  ASSERT_TRUE(conversations.ok()) << conversations.status();
  ASSERT_EQ(conversations->size(), 1u);
  ASSERT_EQ((*conversations)[0].size(), 2u);
  EXPECT_EQ((*conversations)[0][1].prompt, "q2");
  EXPECT_EQ((*conversations)[0][1].answer, "a2");
}

TEST(PromptFileTest, NamesTheConversationThatIsWrong) {
  const auto error_of = [](const std::string& text) {
    std::istringstream in(text);
    return std::string(ReadShareGpt(in, "f").status().message());
  };
  EXPECT_THAT(error_of("{}"), HasSubstr("expected a JSON list"));
  EXPECT_THAT(error_of("[{\"conversations\": []}, 5]"),
              StartsWith("f: conversation 1 has no list"));
  EXPECT_THAT(error_of("[{\"conversations\": [{\"from\": \"human\"}]}]"),
              StartsWith("f: conversation 0 holds a message"));
  EXPECT_THAT(error_of("[]"), HasSubstr("holds no question"));
}

/// Each prompt loads one of four groups with 0.7 of its rows, in both layers.
GroupLoads FourCorners() {
  GroupLoads loads{.num_layers = 2, .num_groups = 4};
  for (size_t prompt = 0; prompt < 8; ++prompt) {
    std::vector<double> rows(8, 0.1);
    rows[prompt % 4] = 0.7;
    rows[4 + prompt % 4] = 0.7;
    loads.of_prompt.push_back(rows);
  }
  return loads;
}

TEST(ExpertTiltTest, BalancednessIsMeanOverMaxOfTheMix) {
  const GroupLoads loads = FourCorners();
  EXPECT_NEAR(MixBalancedness(loads, std::vector<double>(8, 0.125)), 1, 1e-12);
  EXPECT_NEAR(MixBalancedness(loads, {1, 0, 0, 0, 0, 0, 0, 0}), 0.25 / 0.7, 1e-12);
}

TEST(ExpertTiltTest, ReachesAChosenBalancednessOnTheChosenGroup) {
  const GroupLoads loads = FourCorners();
  for (const double target : {0.9, 0.7, 0.5, 0.4}) {
    for (int group = 0; group < 4; ++group) {
      const Tilt tilt = TiltTowards(loads, {group, group}, target);
      EXPECT_NEAR(tilt.balancedness, target, 0.001);
      EXPECT_NEAR(MixBalancedness(loads, tilt.weights), tilt.balancedness, 1e-12);
      const auto most = std::max_element(tilt.weights.begin(), tilt.weights.end());
      EXPECT_EQ((most - tilt.weights.begin()) % 4, group);
    }
  }
}

TEST(ExpertTiltTest, OutOfReachTargetsGetTheNearestMix) {
  const GroupLoads loads = FourCorners();
  EXPECT_NEAR(TiltTowards(loads, {1, 1}, 0.01).balancedness, 0.25 / 0.7, 0.001);
  EXPECT_NEAR(TiltTowards(loads, {1, 1}, 1).balancedness, 1, 1e-12);
}

TEST(ExpertTiltTest, HotGroupsDiffer) {
  const GroupLoads loads = FourCorners();
  EXPECT_THAT(HotGroups(loads, 2, GroupKind::kRanks),
              ElementsAre(ElementsAre(0, 0), ElementsAre(1, 1)));
  EXPECT_EQ(HotGroups(loads, 10, GroupKind::kExperts).size(), 4u);
}

TEST(SkewedPromptsTest, DrawFromTheMixOfTheTime) {
  const SkewedPrompts prompts({.topics = {{10, 11}, {20}},
                               .mixes = {{0.9, 0.1}, {0, 1}},
                               .drift_seconds = 5,
                               .lengths = Params("6", "1")});
  int of_first = 0;
  for (int64_t i = 0; i < 1000; ++i) {
    of_first += prompts.Make({.index = i, .seconds = 4.9}).token_ids[0] < 20;
    EXPECT_EQ(prompts.Make({.index = i, .seconds = 5.1}).token_ids, std::vector<int32_t>(6, 20));
  }
  EXPECT_NEAR(of_first, 900, 40);
  EXPECT_LT(prompts.Make({.index = 1, .seconds = 10.1}).token_ids[0], 30);
}

TEST(SkewedPromptsTest, TopicsGrowFromOneTokenToSixteen) {
  const auto topics = MakeTopics({.vocab_size = 1000}, 10, 3);
  ASSERT_EQ(topics.size(), 10u);
  EXPECT_EQ(topics[0].size(), 1u);
  EXPECT_EQ(topics[4].size(), 16u);
  EXPECT_EQ(topics[5].size(), 1u);
  EXPECT_NE(topics[0], topics[5]);
}

}  // namespace
}  // namespace moed::load
