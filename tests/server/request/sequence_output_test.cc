#include "server/request/sequence_output.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "tests/fakes/test_tokenizer.h"

namespace moed {
namespace {

using ::testing::ElementsAre;

const SequenceEnd kLengthEnd{FinishReason::kLength, std::nullopt};

class SequenceOutputTest : public ::testing::Test {
 protected:
  enum Token : int32_t { kHello, kSpaceWorld, kC3, kA9, kStopHead, kStopTail, kEos, kDot };

  SequenceOutputTest()
      : tokenizer_(
            MakeTestTokenizer({"hello", " world", "\xC3", "\xA9", " ST", "OP now", "<eos>", "."})) {
    request_.prompt_token_ids = {kHello};
  }

  void Start() { output_ = std::make_unique<SequenceOutput>(*tokenizer_, request_, 2); }

  // Appends and returns the text that is shown.
  std::string Text(int32_t token, std::optional<SequenceEnd> end = std::nullopt) {
    if (!output_) Start();
    events_ = output_->Append({.token_id = token}, end);
    return events_.delta.text;
  }

  std::unique_ptr<Tokenizer> tokenizer_;
  Request request_;
  std::unique_ptr<SequenceOutput> output_;
  SequenceOutput::Events events_;
};

TEST_F(SequenceOutputTest, EveryTokenGivesADeltaWithItsText) {
  EXPECT_EQ(Text(kSpaceWorld), " world");
  EXPECT_EQ(events_.delta.index, 2);
  ASSERT_EQ(events_.delta.tokens.size(), 1u);
  EXPECT_EQ(events_.delta.tokens[0].token_id, kSpaceWorld);
  EXPECT_FALSE(events_.finished);
}

TEST_F(SequenceOutputTest, AnUnfinishedCharacterIsHeldBack) {
  EXPECT_EQ(Text(kC3), "");
  EXPECT_EQ(Text(kA9), "\u00e9");
  EXPECT_EQ(Text(kC3, kLengthEnd), "\uFFFD");
}

TEST_F(SequenceOutputTest, ACharacterBegunByThePromptIsCompleted) {
  request_.prompt_token_ids = {kHello, kC3};
  EXPECT_EQ(Text(kA9), "\u00e9");
}

TEST_F(SequenceOutputTest, LogprobsTravelWithTheToken) {
  Start();
  auto events = output_->Append(
      {.token_id = kDot, .logprob = -0.5f, .top_logprobs = {{kDot, -0.5f}, {kEos, -1.f}}}, {});
  EXPECT_EQ(events.delta.tokens[0].logprob, -0.5f);
  EXPECT_THAT(events.delta.tokens[0].top_logprobs,
              ElementsAre(TokenLogprob{kDot, -0.5f}, TokenLogprob{kEos, -1.f}));
}

TEST_F(SequenceOutputTest, TheEndByLengthCarriesItsText) {
  Text(kSpaceWorld);
  EXPECT_EQ(Text(kDot, kLengthEnd), ".");
  ASSERT_TRUE(events_.finished);
  EXPECT_EQ(events_.finished->index, 2);
  EXPECT_EQ(events_.finished->reason, FinishReason::kLength);
  EXPECT_EQ(events_.finished->num_generated_tokens, 2);
  EXPECT_EQ(events_.finished->matched.index(), 0u);
}

TEST_F(SequenceOutputTest, AStopTokenIsListedButHasNoText) {
  EXPECT_EQ(Text(kDot, SequenceEnd{FinishReason::kStop, kDot}), "");
  EXPECT_EQ(events_.delta.tokens[0].token_id, kDot);
  EXPECT_EQ(std::get<int32_t>(events_.finished->matched), kDot);
}

TEST_F(SequenceOutputTest, EosHasNoTextEvenWhenControlTokensAreShown) {
  request_.output.skip_special_tokens = false;
  EXPECT_EQ(Text(kEos), "<eos>");
  EXPECT_EQ(Text(kEos, SequenceEnd{FinishReason::kStop, kEos}), "");
}

TEST_F(SequenceOutputTest, AStopStringAcrossTokensEndsTheSequenceWithoutLeaking) {
  request_.stopping.stop = {"STOP"};
  EXPECT_EQ(Text(kStopHead), " ");
  EXPECT_EQ(Text(kStopTail), "");
  EXPECT_EQ(std::get<std::string>(events_.finished->matched), "STOP");
  EXPECT_EQ(events_.finished->reason, FinishReason::kStop);
}

TEST_F(SequenceOutputTest, AStopStringInTheLastTokenTakesPrecedenceOverLength) {
  request_.stopping.stop = {"STOP"};
  request_.stopping.include_stop_string = true;
  Text(kStopHead);
  EXPECT_EQ(Text(kStopTail, kLengthEnd), "STOP");
  EXPECT_EQ(events_.finished->reason, FinishReason::kStop);
}

TEST_F(SequenceOutputTest, TextHeldForAStopStringIsShownAtTheEnd) {
  request_.stopping.stop = {"STOP"};
  EXPECT_EQ(Text(kStopHead), " ");
  EXPECT_EQ(Text(kEos, SequenceEnd{FinishReason::kStop, kEos}), "ST");
}

TEST_F(SequenceOutputTest, StopStringsCountOnlyAfterMinTokens) {
  request_.stopping.stop = {"hello"};
  request_.stopping.min_tokens = 1;
  EXPECT_EQ(Text(kHello), "hello");
  EXPECT_FALSE(events_.finished);
  EXPECT_EQ(Text(kHello), "");
  EXPECT_TRUE(events_.finished);
}

TEST_F(SequenceOutputTest, EchoPutsThePromptIntoTheFirstDeltaAndIsNotSearched) {
  request_.prompt_token_ids = {kHello, kSpaceWorld};
  request_.output.echo = true;
  request_.stopping.stop = {"world"};
  EXPECT_EQ(Text(kDot), "hello world.");
  EXPECT_EQ(Text(kDot), ".");
}

TEST_F(SequenceOutputTest, SkippedTextIsStillSearchedForStopStrings) {
  request_.output.skip_text = true;
  request_.stopping.stop = {"world"};
  EXPECT_EQ(Text(kHello), "");
  EXPECT_EQ(Text(kSpaceWorld), "");
  EXPECT_TRUE(events_.finished);
}

}  // namespace
}  // namespace moed
