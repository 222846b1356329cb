#include "tests/quality/dtype_quality.h"

#include <cmath>
#include <fstream>
#include <iterator>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moed {
namespace {

using ::testing::HasSubstr;

constexpr char kDemo[] = MOED_SOURCE_DIR "/config/demo";

/// Text that the demo model was not trained on, see README.md.
std::vector<int32_t> HeldOutIds() {
  std::ifstream file(MOED_SOURCE_DIR "/tests/testdata/held_out.txt");
  const std::string text(std::istreambuf_iterator<char>(file), {});
  const auto ids = EncodeDocuments(kDemo, text);
  EXPECT_TRUE(ids.ok()) << ids.status();
  return ids.value_or(std::vector<int32_t>());
}

TEST(DTypeQualityTest, IntegerWeightsOfTheDemoModelKeepItsPerplexity) {
  const std::vector<int32_t> ids = HeldOutIds();
  ASSERT_GT(ids.size(), 3000u);
  const auto qualities =
      MeasureQuality({.model_dir = kDemo, .dtypes = {"bf16", "f32", "int8", "int4"}}, ids);
  ASSERT_TRUE(qualities.ok()) << qualities.status();
  SCOPED_TRACE(QualityTable(*qualities));
  const DTypeQuality &bf16 = qualities->at(0), &f32 = qualities->at(1);
  const DTypeQuality &int8 = qualities->at(2), &int4 = qualities->at(3);
  EXPECT_EQ(bf16.num_tokens, static_cast<int64_t>(ids.size()) - 1);
  EXPECT_GT(bf16.loss, 3.0);  // the text is unknown to it
  EXPECT_LT(bf16.loss, 4.0);  // and it knows the language
  EXPECT_LE(std::abs(f32.perplexity_change), 0.001);
  EXPECT_LE(int8.perplexity_change, 0.001);
  EXPECT_LE(int4.perplexity_change, 0.03);
  // Integers must show, or they are not what was measured.
  EXPECT_GT(int8.relative_logit_error, f32.relative_logit_error);
  EXPECT_GT(int4.relative_logit_error, 3 * int8.relative_logit_error);
  EXPECT_LT(int8.weight_bytes, 0.6 * bf16.weight_bytes);
  EXPECT_LT(int4.weight_bytes, 0.7 * int8.weight_bytes);
}

TEST(DTypeQualityTest, TheFirstDtypeDiffersFromItselfInNothing) {
  const std::vector<int32_t> ids = HeldOutIds();
  const auto qualities =
      MeasureQuality({.model_dir = kDemo, .dtypes = {"bf16", "bf16"}}, std::span(ids).first(300));
  ASSERT_TRUE(qualities.ok()) << qualities.status();
  for (const DTypeQuality& quality : *qualities) {
    EXPECT_EQ(quality.num_tokens, 299);
    EXPECT_EQ(quality.perplexity_change, 0);
    EXPECT_EQ(quality.max_logit_error, 0);
    EXPECT_EQ(quality.same_top_token, 1);
  }
}

TEST(DTypeQualityTest, RefusesWhatCannotBeMeasured) {
  const std::vector<int32_t> one = {0}, two = {0, 1};
  EXPECT_TRUE(absl::IsInvalidArgument(
      MeasureQuality({.model_dir = kDemo, .dtypes = {"bf16"}}, one).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(MeasureQuality({.model_dir = kDemo}, two).status()));
  const absl::Status status =
      MeasureQuality({.model_dir = kDemo, .dtypes = {"int2"}}, two).status();
  EXPECT_THAT(status.message(), HasSubstr("int2"));
}

}  // namespace
}  // namespace moed
