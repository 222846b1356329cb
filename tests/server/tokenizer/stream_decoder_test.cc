#include "server/tokenizer/stream_decoder.h"

#include <gtest/gtest.h>

#include <random>
#include <utility>

#include "server/tokenizer/unicode.h"
#include "tests/server/tokenizer/fixtures.h"

namespace moed {
namespace {

std::unique_ptr<Tokenizer> Load(const std::string& name) {
  auto tokenizer = Tokenizer::Load(testing::ModelDir(name));
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

std::vector<int32_t> Encode(const Tokenizer& tokenizer, std::string_view text) {
  return tokenizer.Encode(text, {.add_special_tokens = false}).value();
}

std::vector<int32_t> RandomIds(std::mt19937& random, int32_t vocab_size) {
  std::vector<int32_t> ids(random() % 60);
  // Low ids are often bytes; ids without a token are part of the game.
  for (int32_t& id : ids) {
    const uint32_t range = random() % 2 ? 300 : static_cast<uint32_t>(vocab_size) + 10;
    id = static_cast<int32_t>(random() % range) - 2;
  }
  return ids;
}

class StreamDecoderTest : public ::testing::TestWithParam<const char*> {};

TEST_P(StreamDecoderTest, PiecesAreValidAndConcatenateToDecode) {
  const auto tokenizer = Load(GetParam());
  std::mt19937 random(1);
  for (int round = 0; round < 500; ++round) {
    const std::vector<int32_t> ids = RandomIds(random, tokenizer->vocab_size());
    for (const bool skip : {false, true}) {
      StreamDecoder decoder(*tokenizer, {.skip_special_tokens = skip});
      std::string text;
      for (const int32_t id : ids) {
        const std::string piece = decoder.Append(id);
        ASSERT_TRUE(unicode::IsValidUtf8(piece));
        text += piece;
      }
      text += decoder.Finish();
      ASSERT_EQ(text, tokenizer->Decode(ids, {.skip_special_tokens = skip}));
      ASSERT_TRUE(unicode::IsValidUtf8(text));
    }
  }
}

TEST_P(StreamDecoderTest, TextAfterAContextIsWhatDecodeAddsToItsCertainText) {
  const auto tokenizer = Load(GetParam());
  std::mt19937 random(2);
  for (int round = 0; round < 300; ++round) {
    const std::vector<int32_t> ids = RandomIds(random, tokenizer->vocab_size());
    const size_t split = ids.empty() ? 0 : random() % ids.size();
    const std::span<const int32_t> context(ids.data(), split);
    StreamDecoder whole(*tokenizer);
    std::string text;
    for (const int32_t id : context) text += whole.Append(id);
    StreamDecoder decoder(*tokenizer, {}, context);
    for (size_t i = split; i < ids.size(); ++i) text += decoder.Append(ids[i]);
    text += decoder.Finish();
    ASSERT_EQ(text, tokenizer->Decode(ids));
  }
}

INSTANTIATE_TEST_SUITE_P(All, StreamDecoderTest,
                         ::testing::Values("added_tokens", "gpt2", "llama2", "metaspace_first",
                                           "metaspace_never", "mixtral_v3", "normalizing",
                                           "splitting_1", "splitting_2"));

TEST(StreamDecoderByteLevelTest, AnUnfinishedCharacterIsHeldBackUntilItIsWhole) {
  const auto tokenizer = Load("gpt2");
  const std::vector<int32_t> ids = Encode(*tokenizer, "\xF0\x9F\xA6\xA5");  // merged by no rule
  ASSERT_GT(ids.size(), 1u);
  StreamDecoder decoder(*tokenizer);
  for (size_t i = 0; i + 1 < ids.size(); ++i) EXPECT_EQ(decoder.Append(ids[i]), "");
  EXPECT_EQ(decoder.Append(ids.back()), "\xF0\x9F\xA6\xA5");
  EXPECT_EQ(decoder.Finish(), "");
}

TEST(StreamDecoderByteLevelTest, AnUnfinishedCharacterBecomesOneReplacementAtTheEnd) {
  const auto tokenizer = Load("gpt2");
  const std::vector<int32_t> ids = Encode(*tokenizer, "\xF0\x9F\xA6\xA5");
  StreamDecoder decoder(*tokenizer);
  EXPECT_EQ(decoder.Append(ids[0]), "");
  EXPECT_EQ(decoder.Finish(), "\xEF\xBF\xBD");
}

TEST(StreamDecoderByteLevelTest, ACharacterThatThePromptLeftUnfinishedComesWhole) {
  const auto tokenizer = Load("gpt2");
  const std::vector<int32_t> ids = Encode(*tokenizer, "\xF0\x9F\xA6\xA5");
  StreamDecoder decoder(*tokenizer, {}, std::span(ids).first(1));
  std::string text;
  for (size_t i = 1; i < ids.size(); ++i) text += decoder.Append(ids[i]);
  EXPECT_EQ(text, "\xF0\x9F\xA6\xA5");
}

TEST(StreamDecoderByteLevelTest, TextAppearsWithItsToken) {
  const auto tokenizer = Load("gpt2");
  StreamDecoder decoder(*tokenizer);
  std::string text;
  for (const int32_t id : Encode(*tokenizer, "Hello, world")) {
    text += decoder.Append(id);
    EXPECT_EQ(text, std::string_view("Hello, world").substr(0, text.size()));
  }
  EXPECT_EQ(text, "Hello, world");  // nothing is held back to the end
}

TEST(StreamDecoderSentencePieceTest, TheSpaceOfTheFirstWordIsDroppedOnlyAtTheBeginningOfTheText) {
  for (const char* name : {"llama2", "metaspace_first"}) {
    const auto tokenizer = Load(name);
    const std::vector<int32_t> prompt = Encode(*tokenizer, "the quick");
    const std::vector<int32_t> answer = Encode(*tokenizer, "the fox");
    EXPECT_EQ(tokenizer->Decode(answer), "the fox");
    StreamDecoder decoder(*tokenizer, {}, prompt);
    std::string text;
    for (const int32_t id : answer) text += decoder.Append(id);
    EXPECT_EQ(text + decoder.Finish(), " the fox") << name;
  }
}

TEST(StreamDecoderSentencePieceTest, ARunOfByteTokensIsOneTextOrAllReplacements) {
  const auto tokenizer = Load("llama2");
  const auto id_of = [&](std::string_view piece) { return tokenizer->PieceToId(piece).value(); };
  const int32_t e4 = id_of("<0xE4>"), bd = id_of("<0xBD>"), a0 = id_of("<0xA0>");
  const int32_t word = id_of("\xE2\x96\x81the");
  EXPECT_EQ(tokenizer->Decode(std::vector{e4, bd, a0, word}), "\xE4\xBD\xA0 the");
  EXPECT_EQ(tokenizer->Decode(std::vector{e4, bd, word}), "\xEF\xBF\xBD\xEF\xBF\xBD the");
  StreamDecoder decoder(*tokenizer);
  for (const int32_t id : {e4, bd, a0}) EXPECT_EQ(decoder.Append(id), "");
  EXPECT_EQ(decoder.Append(word), "\xE4\xBD\xA0 the");
}

TEST(StreamDecoderSentencePieceTest, SpecialTokensAreSkippedOrShown) {
  const auto tokenizer = Load("llama2");
  const std::vector<int32_t> ids = tokenizer->Encode("the").value();
  ASSERT_TRUE(tokenizer->IsSpecial(ids[0]));
  EXPECT_EQ(tokenizer->Decode(ids), "the");
  EXPECT_EQ(tokenizer->Decode(ids, {.skip_special_tokens = false}), "<s> the");
}

TEST(StreamDecoderMoveTest, AMovedDecoderGoesOn) {
  const auto tokenizer = Load("gpt2");
  const std::vector<int32_t> ids = Encode(*tokenizer, "\xF0\x9F\xA6\xA5");
  StreamDecoder first(*tokenizer);
  std::string text = first.Append(ids[0]);
  StreamDecoder second = std::move(first);
  for (size_t i = 1; i < ids.size(); ++i) text += second.Append(ids[i]);
  EXPECT_EQ(text, "\xF0\x9F\xA6\xA5");
}

}  // namespace
}  // namespace moed
