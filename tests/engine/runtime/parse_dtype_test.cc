#include "engine/runtime/parse_dtype.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moed {
namespace {

using ::testing::HasSubstr;

TEST(ParseActivationDTypeTest, KnowsBf16AndF32) {
  EXPECT_EQ(*ParseActivationDType("bf16"), DType::kBF16);
  EXPECT_EQ(*ParseActivationDType("f32"), DType::kF32);
}

TEST(ParseActivationDTypeTest, TellsUnsupportedFromUnknown) {
  for (const char* text : {"int8", "int4"}) {
    const absl::Status status = ParseActivationDType(text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
    EXPECT_THAT(status.message(), HasSubstr("use bf16 or f32"));
  }
  EXPECT_EQ(ParseActivationDType("fp8").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ParseActivationDType("").status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace moed
