#include "engine/runtime/parse_dtype.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moed {
namespace {

using kernels::WeightFormat;
using ::testing::HasSubstr;

TEST(ParseEngineDTypeTest, AValueSaysHowToComputeAndHowToKeepWeights) {
  EXPECT_EQ(*ParseEngineDType("bf16"), (EngineDType{DType::kBF16, WeightFormat::kStored}));
  EXPECT_EQ(*ParseEngineDType("f32"), (EngineDType{DType::kF32, WeightFormat::kStored}));
  EXPECT_EQ(*ParseEngineDType("int8"), (EngineDType{DType::kBF16, WeightFormat::kInt8}));
  EXPECT_EQ(*ParseEngineDType("int4"), (EngineDType{DType::kBF16, WeightFormat::kInt4}));
}

TEST(ParseEngineDTypeTest, ANameIsThatOfTheValue) {
  for (const char* text : {"bf16", "f32", "int8", "int4"}) {
    EXPECT_EQ(Name(*ParseEngineDType(text)), text);
  }
  EXPECT_EQ(Name(EngineDType{DType::kF32, WeightFormat::kInt8}), "");
}

TEST(ParseEngineDTypeTest, AnUnknownValueIsRefusedNamingTheKnownOnes) {
  for (const char* text : {"", "fp8", "INT8", "int8 "}) {
    const absl::Status status = ParseEngineDType(text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(status.message(), HasSubstr("expected bf16, f32, int8 or int4"));
  }
}

}  // namespace
}  // namespace moed
