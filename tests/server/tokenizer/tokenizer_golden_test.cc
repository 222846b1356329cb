#include <gtest/gtest.h>

#include <algorithm>

#include "server/tokenizer/stream_decoder.h"
#include "server/tokenizer/tokenizer.h"
#include "server/tokenizer/unicode.h"
#include "tests/server/tokenizer/fixtures.h"

namespace moed {
namespace {

using ::moed::testing::Golden;
using ::moed::testing::HashOf;
using ::moed::testing::SampleStrings;

/// Compares one tokenizer with the `tokenizers` library, by what make_fixtures.py wrote down.
class TokenizerGoldenTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const std::string dir = testing::ModelDir(GetParam());
    if (dir.empty()) GTEST_SKIP() << "tokenizer " << GetParam() << " is not on this machine";
    auto loaded = Tokenizer::Load(dir);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    tokenizer_ = *std::move(loaded);
    golden_ = testing::ReadGolden(GetParam());
  }

  std::vector<int32_t> Encode(std::string_view text, const EncodeOptions& options = {}) {
    const auto ids = tokenizer_->Encode(text, options);
    EXPECT_TRUE(ids.ok()) << ids.status();
    return ids.value_or(std::vector<int32_t>());
  }

  std::string Stream(std::span<const int32_t> ids) {
    StreamDecoder decoder(*tokenizer_);
    std::string text;
    for (const int32_t id : ids) {
      const std::string piece = decoder.Append(id);
      EXPECT_TRUE(unicode::IsValidUtf8(piece));
      text += piece;
    }
    return text + decoder.Finish();
  }

  std::unique_ptr<Tokenizer> tokenizer_;
  Golden golden_;
};

TEST_P(TokenizerGoldenTest, IdsEqualTheReference) {
  const std::vector<std::string> strings = SampleStrings();
  ASSERT_EQ(golden_.ids_hashes.size(), strings.size());
  for (size_t i = 0; i < strings.size(); ++i) {
    const std::vector<int32_t> ids = Encode(strings[i]);
    if (i < golden_.first_ids.size()) {
      EXPECT_EQ(ids, golden_.first_ids[i]) << "string " << i << ": " << strings[i];
    }
    EXPECT_EQ(HashOf(ids), golden_.ids_hashes[i]) << "string " << i << ": " << strings[i];
  }
}

TEST_P(TokenizerGoldenTest, IdsEqualTheReferenceWithSpecialTokensLeftAsText) {
  const std::vector<std::string> strings = SampleStrings();
  for (size_t i = 0; i < strings.size(); ++i) {
    const std::vector<int32_t> ids = Encode(strings[i], {.parse_special_tokens = false});
    EXPECT_EQ(HashOf(ids), golden_.literal_ids_hashes[i]) << "string " << i << ": " << strings[i];
  }
}

TEST_P(TokenizerGoldenTest, DecodedTextEqualsTheReferenceStreamedOrNot) {
  const std::vector<std::string> strings = SampleStrings();
  for (size_t i = 0; i < strings.size(); ++i) {
    const std::vector<int32_t> ids = Encode(strings[i]);
    const std::string text = tokenizer_->Decode(ids);
    EXPECT_EQ(HashOf(std::string_view(text)), golden_.text_hashes[i])
        << "string " << i << ": " << strings[i] << "\ndecoded: " << text;
    EXPECT_EQ(Stream(ids), text) << "string " << i;
  }
}

TEST_P(TokenizerGoldenTest, TextOfRandomIdsEqualsTheReference) {
  for (const Golden::Noise& noise : golden_.noise) {
    EXPECT_EQ(tokenizer_->Decode(noise.ids), noise.text);
    EXPECT_EQ(tokenizer_->Decode(noise.ids, {.skip_special_tokens = false}), noise.full_text);
    EXPECT_EQ(Stream(noise.ids), noise.text);
  }
}

std::string NameOf(const ::testing::TestParamInfo<const char*>& info) { return info.param; }

INSTANTIATE_TEST_SUITE_P(Synthetic, TokenizerGoldenTest,
                         ::testing::Values("added_tokens", "cl100k", "deepseek2", "deepseek3",
                                           "gpt2", "gpt2_prefix_space", "granite", "kimi", "llama2",
                                           "llama3", "metaspace_first", "metaspace_never",
                                           "metaspace_old", "mixtral_v3", "normalizing", "o200k",
                                           "qwen", "splitting_1", "splitting_2"),
                         NameOf);

// Real ones are too large to copy; these are skipped where ../shared is not there.
INSTANTIATE_TEST_SUITE_P(Real, TokenizerGoldenTest, ::testing::Values("olmo", "qwen3", "tales"),
                         NameOf);

}  // namespace
}  // namespace moed
