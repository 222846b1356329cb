#include "server/tokenizer/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ctime>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "server/tokenizer/unicode.h"
#include "tests/server/tokenizer/fixtures.h"

namespace moed {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

/// A small SentencePiece-style model: ids 0 to 2 are control tokens, then bytes are left out.
json SmallModel() {
  return json::parse(R"({
    "added_tokens": [{"id": 0, "content": "<unk>", "special": true},
                     {"id": 1, "content": "<s>", "special": true},
                     {"id": 7, "content": "<end>", "special": true, "normalized": false},
                     {"id": 9, "content": "<tool>", "special": false, "normalized": false}],
    "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": false,
              "vocab": {"<unk>": 0, "<s>": 1, "a": 2, "b": 3, "ab": 4, "abab": 5, "c": 6},
              "merges": [["a", "b"], ["ab", "ab"]]}})");
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Make(const json& tokenizer, const json& config = {}) {
  return Tokenizer::FromJson(tokenizer.dump(), config.is_null() ? "" : config.dump());
}

std::vector<int32_t> Encode(const json& tokenizer, std::string_view text,
                            const EncodeOptions& options = {}) {
  const auto made = Make(tokenizer);
  EXPECT_TRUE(made.ok()) << made.status();
  return made.ok() ? (*made)->Encode(text, options).value() : std::vector<int32_t>();
}

std::unique_ptr<Tokenizer> Load(const std::string& name) {
  auto tokenizer = Tokenizer::Load(testing::ModelDir(name));
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

TEST(TokenizerTest, TheBestMergeComesFirstAndTheLeftmostAmongEquals) {
  EXPECT_THAT(Encode(SmallModel(), "ababab"), ElementsAre(5, 4));
  EXPECT_THAT(Encode(SmallModel(), "aab"), ElementsAre(2, 4));
}

TEST(TokenizerTest, UnknownCharactersAreOneTokenEachOrFused) {
  json model = SmallModel();
  EXPECT_THAT(Encode(model, "axyb"), ElementsAre(2, 0, 0, 3));
  model["model"]["fuse_unk"] = true;
  EXPECT_THAT(Encode(model, "axyb"), ElementsAre(2, 0, 3));
  model["model"]["unk_token"] = nullptr;
  EXPECT_THAT(Encode(model, "axyb"), ElementsAre(4));
}

TEST(TokenizerTest, ControlTokensInTextAreFoundOnlyWhenAsked) {
  EXPECT_THAT(Encode(SmallModel(), "a<end>b"), ElementsAre(2, 7, 3));
  EXPECT_THAT(Encode(SmallModel(), "a<end>b", {.parse_special_tokens = false}),
              ElementsAre(2, 0, 0, 0, 0, 0, 3));
  EXPECT_THAT(Encode(SmallModel(), "<tool>", {.parse_special_tokens = false}), ElementsAre(9));
}

TEST(TokenizerTest, ControlTokensAreNotMadeByWholeWordLookupEither) {
  json model = SmallModel();
  model["model"]["ignore_merges"] = true;
  EXPECT_THAT(Encode(model, "abab"), ElementsAre(5));
  EXPECT_THAT(Encode(model, "<s>", {.parse_special_tokens = false}), ElementsAre(0, 0, 0));
}

TEST(TokenizerTest, TheTemplateAddsSpecialTokensWhenAsked) {
  json model = SmallModel();
  model["post_processor"] = json::parse(R"({"type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
               {"SpecialToken": {"id": "<end>", "type_id": 0}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]},
                       "<end>": {"id": "<end>", "ids": [7], "tokens": ["<end>"]}}})");
  EXPECT_THAT(Encode(model, "ab"), ElementsAre(1, 4, 7));
  EXPECT_THAT(Encode(model, ""), ElementsAre(1, 7));
  EXPECT_THAT(Encode(model, "ab", {.add_special_tokens = false}), ElementsAre(4));
}

TEST(TokenizerTest, LlamaTokenizersTakeTheirTemplateFromTheConfig) {
  json config = {{"tokenizer_class", "LlamaTokenizer"},
                 {"add_bos_token", true},
                 {"add_eos_token", true},
                 {"bos_token", {{"content", "<s>"}}},
                 {"eos_token", "<end>"}};
  EXPECT_THAT((*Make(SmallModel(), config))->Encode("ab").value(), ElementsAre(1, 4, 7));
  config["add_bos_token"] = false;
  EXPECT_THAT((*Make(SmallModel(), config))->Encode("ab").value(), ElementsAre(4, 7));
  config["tokenizer_class"] = "PreTrainedTokenizerFast";
  EXPECT_THAT((*Make(SmallModel(), config))->Encode("ab").value(), ElementsAre(4));
  config["tokenizer_class"] = "LlamaTokenizerFast";
  config["eos_token"] = "<nothing>";
  EXPECT_THAT(Make(SmallModel(), config).status().message(), HasSubstr("<nothing>"));
}

TEST(TokenizerTest, TokensOfTheConfigAreAddedOrReplaceFlags) {
  const json config = {{"added_tokens_decoder",
                        {{"9", {{"content", "<tool>"}, {"special", true}}},
                         {"12", {{"content", "<new>"}, {"special", true}}}}}};
  const auto tokenizer = Make(SmallModel(), config);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT((*tokenizer)->Encode("<tool><new>").value(), ElementsAre(9, 12));
  EXPECT_TRUE((*tokenizer)->IsSpecial(9));
  EXPECT_EQ((*tokenizer)->vocab_size(), 13);
}

TEST(TokenizerTest, IdsWithoutATokenAreKnown) {
  const auto tokenizer = *Make(SmallModel());
  EXPECT_EQ(tokenizer->vocab_size(), 10);
  EXPECT_EQ(tokenizer->IdToPiece(4), "ab");
  for (const int32_t id : {-1, 8, 10, INT32_MAX, INT32_MIN}) {
    EXPECT_EQ(tokenizer->IdToPiece(id), "");
    EXPECT_EQ(tokenizer->TokenBytes(id), "");
    EXPECT_EQ(tokenizer->Decode(std::vector{id}), "");
    EXPECT_FALSE(tokenizer->IsSpecial(id));
  }
  EXPECT_EQ(tokenizer->PieceToId("<tool>"), 9);
  EXPECT_EQ(tokenizer->PieceToId("nothing"), std::nullopt);
}

TEST(TokenizerTest, WithoutADecoderTokensAreJoinedWithSpaces) {
  EXPECT_EQ((*Make(SmallModel()))->Decode(std::vector{2, 1, 4}), "a ab");
}

TEST(TokenizerTest, TokenBytesAreThoseOfTheTokenAnywhere) {
  const auto bytes = Load("gpt2");
  EXPECT_EQ(bytes->TokenBytes(bytes->PieceToId("\xC4\xA0the").value()), " the");
  EXPECT_EQ(bytes->TokenBytes(bytes->PieceToId("\xC3\xA4").value()), "\xE4");
  const auto pieces = Load("llama2");
  EXPECT_EQ(pieces->TokenBytes(pieces->PieceToId("\xE2\x96\x81the").value()), " the");
  EXPECT_EQ(pieces->TokenBytes(pieces->PieceToId("<0xE4>").value()), "\xE4");
}

TEST(TokenizerTest, BothSpellingsOfMergesMeanTheSame) {
  json model = SmallModel();
  model["model"]["merges"] = {"#version: 0.2", "a b", "ab ab"};
  EXPECT_THAT(Encode(model, "ababab"), ElementsAre(5, 4));
}

TEST(TokenizerTest, WhatIsNotKnownIsRefusedByName) {
  const auto expect = [](const char* pointer, const json& value, const char* name) {
    json model = SmallModel();
    model[json::json_pointer(pointer)] = value;
    const absl::Status status = Make(model).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << pointer;
    EXPECT_THAT(std::string(status.message()), HasSubstr(name));
  };
  expect("/model/type", "Unigram", "Unigram");
  expect("/model/dropout", 0.5, "dropout");
  expect("/model/end_of_word_suffix", "</w>", "end_of_word_suffix");
  expect("/normalizer", {{"type", "Precompiled"}}, "Precompiled");
  expect("/pre_tokenizer", {{"type", "BertPreTokenizer"}}, "BertPreTokenizer");
  expect("/post_processor", {{"type", "RobertaProcessing"}}, "RobertaProcessing");
  expect("/decoder", {{"type", "WordPiece"}}, "WordPiece");
  expect("/decoder",
         json::parse(
             R"({"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "ByteFallback"}]})"),
         "ByteFallback");
}

TEST(TokenizerTest, WhatIsMalformedIsRefusedAndNamed) {
  const auto expect = [](const char* pointer, const json& value, const char* name) {
    json model = SmallModel();
    model[json::json_pointer(pointer)] = value;
    const absl::Status status = Make(model).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << pointer << value;
    EXPECT_THAT(std::string(status.message()), HasSubstr(name));
  };
  expect("/model/vocab/a", -1, "\"a\"");
  expect("/model/vocab/a", 1.5, "model.vocab");
  expect("/model/vocab/a", "2", "\"a\"");
  expect("/model/vocab/a", int64_t{1} << 40, "\"a\"");
  expect("/model/vocab/a", 1 << 30, "out of range");
  expect("/model/vocab/a", 3, "already belongs");
  expect("/model/vocab", json::array({1}), "model.vocab");
  expect("/model/merges/0", "a b c", "a b c");
  expect("/model/merges/0", json::array({"a", "b", "c"}), "model.merges");
  expect("/model/merges/0", json::array({"a"}), "model.merges");
  expect("/model/merges/0", json::array({"a", "x"}), "\"x\"");
  expect("/model/merges/0", 5, "model.merges");
  expect("/model/unk_token", "<missing>", "<missing>");
  expect("/model", 5, "model");
  expect("/added_tokens/0/id", -3, "id");
  expect("/added_tokens/3/id", 2, "<tool>");
  expect("/added_tokens/0/lstrip", 7, "lstrip");
  expect("/normalizer", json::object(), "type");
  expect("/pre_tokenizer",
         json::parse(R"({"type": "Split", "pattern": {"Regex": "("}, "behavior": "Removed"})"),
         "(");
  expect("/pre_tokenizer",
         json::parse(R"({"type": "Split", "pattern": {"Regex": "a"}, "behavior": "Sideways"})"),
         "Sideways");
  expect("/pre_tokenizer", json::parse(R"({"type": "Metaspace", "replacement": "__"})"),
         "replacement");
  expect("/post_processor", json::parse(R"({"type": "TemplateProcessing", "single": []})"),
         "single");
}

TEST(TokenizerTest, TextThatIsNoJsonIsRefused) {
  for (const char* text : {"", "{", "[]", "null", "{\"model\":{\"vocab\":{\"a\":", "\xFF\xFE",
                           "{\"model\": {\"vocab\": {\"\xFF\": 1}}}"}) {
    EXPECT_EQ(Tokenizer::FromJson(text, "").status().code(), absl::StatusCode::kInvalidArgument)
        << text;
  }
  const std::string deep = "{\"x\":" + std::string(100000, '[');
  EXPECT_FALSE(Tokenizer::FromJson(deep, "").ok());
  EXPECT_FALSE(Tokenizer::FromJson(SmallModel().dump(), "{").ok());
}

TEST(TokenizerTest, ATokenizerCutShortOrChangedAnywhereNeverCrashes) {
  std::ifstream file(testing::ModelDir("llama3") + "/tokenizer.json");
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  std::mt19937 random(3);
  for (int round = 0; round < 300; ++round) {
    std::string changed = text;
    if (round % 3 == 0) changed.resize(random() % text.size());
    for (int i = 0; i < 3; ++i) {
      if (!changed.empty()) changed[random() % changed.size()] = static_cast<char>(random());
    }
    const auto tokenizer = Tokenizer::FromJson(changed, "");
    if (tokenizer.ok()) (*tokenizer)->Encode("Hello <|eot_id|> strawberry").IgnoreError();
  }
}

TEST(TokenizerTest, AComponentWithAnyWrongValueNeverCrashes) {
  for (const char* name : {"llama2", "llama3", "splitting_1", "normalizing"}) {
    std::ifstream file(testing::ModelDir(name) + "/tokenizer.json");
    json original = json::parse(file);
    original["model"]["vocab"] = {{"<unk>", 0}, {"a", 1}, {"b", 2}, {"ab", 3}};
    original["model"]["merges"] = {"a b"};
    const json flat = original.flatten();
    for (const auto& [pointer, value] : flat.items()) {
      for (const char* wrong :
           {"null", "-1", "1e99", "4194303", "\"\"", "\"x\"", "true", "[]", "{}"}) {
        json changed = original;
        changed[json::json_pointer(pointer)] = json::parse(wrong);
        const auto tokenizer = Make(changed);
        if (!tokenizer.ok()) continue;
        (*tokenizer)->Encode("ab <s> \xFF").IgnoreError();
        (*tokenizer)->Decode(std::vector{0, 1, 2, 3});
      }
    }
  }
}

TEST(TokenizerTest, AMissingFileIsNotFound) {
  const absl::Status status = Tokenizer::Load("/nonexistent").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("/nonexistent/tokenizer.json"));
}

TEST(TokenizerTest, TextAboveTheLimitIsRefused) {
  const auto tokenizer = *Make(SmallModel());
  EXPECT_EQ(tokenizer->Encode(std::string(Tokenizer::kMaxTextBytes + 1, 'a')).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(TokenizerTest, RandomBytesEncodeAndByteLevelGivesThemBack) {
  const auto tokenizer = Load("gpt2");
  std::mt19937 random(4);
  for (int round = 0; round < 500; ++round) {
    std::string bytes(random() % 80, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random());
    std::string valid;
    unicode::AppendLossy(bytes, valid);
    const auto ids = tokenizer->Encode(bytes, {.parse_special_tokens = false});
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(tokenizer->Decode(*ids), valid);
    for (const int32_t id : *ids) EXPECT_TRUE(id >= 0 && id < tokenizer->vocab_size());
  }
}

TEST(TokenizerTest, ManyThreadsMayUseOneTokenizer) {
  const auto tokenizer = Load("qwen");
  const std::vector<std::string> strings = testing::SampleStrings();
  const auto encode_all = [&] {
    uint32_t hash = 0;
    for (size_t i = 0; i < 400; ++i) {
      const std::vector<int32_t> ids = tokenizer->Encode(strings[i]).value();
      hash = 31 * hash + testing::HashOf(ids) + testing::HashOf(tokenizer->Decode(ids));
    }
    return hash;
  };
  const uint32_t expected = encode_all();
  std::vector<uint32_t> hashes(4);
  std::vector<std::thread> threads;
  for (uint32_t& hash : hashes) threads.emplace_back([&] { hash = encode_all(); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(hashes, ::testing::Each(expected));
}

/// Time is only judged where the code is optimized and not instrumented.
#if defined(NDEBUG) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
constexpr bool kJudgeTime = true;
#else
constexpr bool kJudgeTime = false;
#endif

std::string Repeat(std::string_view unit, size_t bytes) {
  std::string text;
  while (text.size() + unit.size() <= bytes) text += unit;
  return text;
}

/// Every kind of text that could take long.
std::vector<std::string> LongTexts(size_t bytes) {
  std::vector<std::string> texts;
  for (const char* unit :
       {"a", "A", "ab", " ", "\n", " \n", "7", "!", "\xCC\x81", "\xCC\x96\xCC\x81", "\xE5\xAD\x97",
        "\xF0\x9F\x91\x8D\xF0\x9F\x8F\xBD", "'s", "the quick brown fox ", "<|im_end|>", "<|im_",
        "\xE2\x96\x81", "\xFF"}) {
    texts.push_back(Repeat(unit, bytes));
  }
  texts.push_back(std::string(bytes, ' ') + "7");
  texts.push_back(std::string(bytes, '\n') + "a");
  std::mt19937 random(5);
  std::string word(bytes, 'a');
  for (char& letter : word) letter = static_cast<char>('a' + random() % 26);
  texts.push_back(word);
  return texts;
}

struct TimeCase {
  const char* tokenizer;
  size_t bytes;
};

class TokenizerTimeTest : public ::testing::TestWithParam<TimeCase> {};

TEST_P(TokenizerTimeTest, AMegabyteOfAnythingTakesLessThanTwoSeconds) {
  const auto [name, bytes] = GetParam();
  if (testing::ModelDir(name).empty()) GTEST_SKIP() << name << " is not on this machine";
  const double limit = 2.0 * static_cast<double>(bytes) / (1 << 20);
  const auto tokenizer = Load(name);
  for (const std::string& text : LongTexts(kJudgeTime ? bytes : bytes / 32)) {
    const std::clock_t start = std::clock();
    const auto ids = tokenizer->Encode(text);
    const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
    ASSERT_TRUE(ids.ok()) << ids.status();
    if (kJudgeTime) {
      EXPECT_LT(seconds, limit) << "text of " << text.substr(0, 20);
    }
  }
}

// One at full size; a quarter of it shows whether the time of the others grows too fast.
INSTANTIATE_TEST_SUITE_P(All, TokenizerTimeTest,
                         ::testing::Values(TimeCase{"qwen", 1 << 20}, TimeCase{"qwen3", 1 << 18},
                                           TimeCase{"llama2", 1 << 18},
                                           TimeCase{"deepseek2", 1 << 18},
                                           TimeCase{"normalizing", 1 << 18}),
                         [](const auto& info) { return std::string(info.param.tokenizer); });

}  // namespace
}  // namespace moed
