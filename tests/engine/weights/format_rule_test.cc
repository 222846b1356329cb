#include "engine/weights/format_rule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>

namespace moed {
namespace {

using kernels::WeightFormat;

constexpr WeightFormat kStored = WeightFormat::kStored;
constexpr WeightFormat kInt8 = WeightFormat::kInt8;
constexpr WeightFormat kInt4 = WeightFormat::kInt4;

TEST(FormatRuleTest, AttentionAndExpertsAreKeptAsAsked) {
  for (const WeightFormat asked : {kStored, kInt8, kInt4}) {
    const FormatRule rule = {.asked = asked};
    EXPECT_EQ(rule.Of(WeightRole::kInput), asked);
    EXPECT_EQ(rule.Of(WeightRole::kOutput), asked);
  }
}

TEST(FormatRuleTest, TheHeadAndAnEmbeddingTiedToItAreKeptInInt8) {
  for (const WeightFormat asked : {kInt8, kInt4}) {
    EXPECT_EQ((FormatRule{.asked = asked}).Of(WeightRole::kHead), kInt8);
    EXPECT_EQ((FormatRule{.asked = asked}).Of(WeightRole::kEmbedding), kStored);
    EXPECT_EQ((FormatRule{.asked = asked, .tied_embedding = true}).Of(WeightRole::kEmbedding),
              kInt8);
  }
  EXPECT_EQ((FormatRule{.asked = kStored}).Of(WeightRole::kHead), kStored);
  EXPECT_EQ((FormatRule{.tied_embedding = true}).Of(WeightRole::kEmbedding), kStored);
}

TEST(FormatRuleTest, RoutersNormsAndBiasesAreKeptAsStored) {
  for (const WeightRole role : {WeightRole::kRouter, WeightRole::kNorm, WeightRole::kBias}) {
    EXPECT_EQ((FormatRule{.asked = kInt4}).Of(role), kStored);
  }
}

uint64_t Bytes(WeightFormat asked, WeightRole role, int64_t rows, int64_t cols) {
  const MatrixRef ref = {.role = role, .rows = rows, .cols = cols};
  return FormatRule{.asked = asked}.Bytes(ref, DType::kBF16).value_or(0);
}

TEST(FormatRuleTest, EveryGroupOf32HasItsIntegersAndOneScale) {
  EXPECT_EQ(Bytes(kInt8, WeightRole::kInput, 5, 64), 5u * 2 * (32 + 2));
  EXPECT_EQ(Bytes(kInt4, WeightRole::kInput, 5, 64), 5u * 2 * (16 + 2));
  EXPECT_EQ(Bytes(kInt4, WeightRole::kHead, 5, 64), 5u * 2 * (32 + 2));
}

TEST(FormatRuleTest, AnIncompleteGroupTakesTheRoomOfAWholeOne) {
  EXPECT_EQ(Bytes(kInt8, WeightRole::kOutput, 3, 33), Bytes(kInt8, WeightRole::kOutput, 3, 64));
  EXPECT_EQ(Bytes(kInt4, WeightRole::kOutput, 3, 1), Bytes(kInt4, WeightRole::kOutput, 3, 32));
}

TEST(FormatRuleTest, WhatIsKeptAsStoredHasTheStoredType) {
  const MatrixRef ref = {.role = WeightRole::kRouter, .rows = 8, .cols = 33};
  EXPECT_EQ(FormatRule{.asked = kInt4}.Bytes(ref, DType::kBF16), 8u * 33 * 2);
  EXPECT_EQ(FormatRule{}.Bytes(ref, DType::kF32), 8u * 33 * 4);
  EXPECT_EQ(Bytes(kInt4, WeightRole::kNorm, 1, 33), 33u * 4);
  EXPECT_EQ(Bytes(kStored, WeightRole::kBias, 1, 33), 33u * 4);
}

TEST(FormatRuleTest, BytesThatDoNotFitInto64BitsAreRefused) {
  const MatrixRef ref = {.rows = INT64_MAX, .cols = 64};
  for (const WeightFormat asked : {kStored, kInt8, kInt4}) {
    EXPECT_EQ(FormatRule{.asked = asked}.Bytes(ref, DType::kBF16), std::nullopt);
  }
}

}  // namespace
}  // namespace moed
