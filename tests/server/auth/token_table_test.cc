#include "server/auth/token_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

namespace moed {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

const std::vector<std::string>& Methods() {
  static const auto* methods = new std::vector<std::string>{
      "moed.v1.InferenceService/Generate", "moed.v1.InferenceService/Tokenize",
      "moed.v1.AdminService/GetStatus", "moed.v1.AdminService/Drain"};
  return *methods;
}

std::string Hash(const std::string& token) {
  return absl::StrCat("sha256:", ToHex(HashToken(token)));
}

absl::StatusOr<TokenTable> Parse(const std::string& text) {
  return TokenTable::Parse(text, "tokens", Methods());
}

// The error's text; fails the test when there is none.
std::string ErrorOf(const std::string& text) {
  const absl::Status status = Parse(text).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
  return std::string(status.message());
}

TEST(TokenTableTest, ATokenStandsForItsTenantWithTheTenantsLimits) {
  const auto table = Parse(absl::StrCat("# who\n\ntoken acme ", Hash("alpha"),
                                        "\r\n  tenant acme requests_per_second=2.5 "
                                        "tokens_per_minute=6000 max_concurrent=3\n",
                                        "token other ", Hash("beta"), "\n"));
  ASSERT_TRUE(table.ok()) << table.status();
  EXPECT_EQ(table->num_tokens(), 2u);
  const TokenGrant* alpha = table->Find("alpha");
  ASSERT_NE(alpha, nullptr);
  EXPECT_EQ(alpha->tenant, "acme");
  EXPECT_EQ(
      alpha->limits,
      (TenantLimits{.requests_per_second = 2.5, .tokens_per_minute = 6000, .max_concurrent = 3}));
  EXPECT_EQ(table->Find("beta")->limits, TenantLimits());
  for (const char* wrong : {"", "alph", "alphaa", "ALPHA", "acme"}) {
    EXPECT_EQ(table->Find(wrong), nullptr) << wrong;
  }
}

TEST(TokenTableTest, MethodsAreInferenceUnlessTheLineSaysOtherwise) {
  const auto table = Parse(
      absl::StrCat("token a ", Hash("1"), "\ntoken a ", Hash("2"), " methods=admin\ntoken a ",
                   Hash("3"), " methods=Generate,moed.v1.AdminService/GetStatus,Generate\ntoken a ",
                   Hash("4"), " methods=all\n"));
  ASSERT_TRUE(table.ok()) << table.status();
  EXPECT_THAT(table->Find("1")->methods, ElementsAre("moed.v1.InferenceService/Generate",
                                                     "moed.v1.InferenceService/Tokenize"));
  EXPECT_THAT(table->Find("2")->methods,
              ElementsAre("moed.v1.AdminService/Drain", "moed.v1.AdminService/GetStatus"));
  EXPECT_THAT(table->Find("3")->methods,
              ElementsAre("moed.v1.AdminService/GetStatus", "moed.v1.InferenceService/Generate"));
  EXPECT_EQ(table->Find("4")->methods.size(), 4u);
  EXPECT_TRUE(table->Find("1")->Allows("moed.v1.InferenceService/Generate"));
  EXPECT_FALSE(table->Find("1")->Allows("moed.v1.AdminService/Drain"));
}

TEST(TokenTableTest, AnErrorNamesFileLineAndCauseButNeverWhatMayBeAToken) {
  EXPECT_THAT(ErrorOf("# nobody\n"), HasSubstr("token file tokens holds no token"));
  const std::string plain = ErrorOf("# old form\nplain-secret\n");
  EXPECT_THAT(plain, HasSubstr("line 2"));
  EXPECT_THAT(plain, Not(HasSubstr("plain-secret")));
  const std::string unhashed = ErrorOf("token acme plain-secret\n");
  EXPECT_THAT(unhashed, HasSubstr("sha256:"));
  EXPECT_THAT(unhashed, Not(HasSubstr("plain-secret")));
}

TEST(TokenTableTest, EveryMistakeIsFound) {
  const std::string good = absl::StrCat("token a ", Hash("1"));
  for (const std::string& bad :
       {std::string("tenant"), std::string("token a/b ") + Hash("1"),
        std::string("token a sha256:") + std::string(64, 'g'), Hash("1"),
        good + " methods=", good + " methods=Fly", good + " method=all", good + " methods=all more",
        good + "\n" + good, good + "\ntenant a max_concurrent=0",
        good + "\ntenant a max_concurrent=1.5", good + "\ntenant a requests_per_second=-1",
        good + "\ntenant a tokens_per_minute=nan", good + "\ntenant a colour=red",
        good + "\ntenant a\ntenant a", "token " + std::string(65, 'x') + " " + Hash("1")}) {
    EXPECT_THAT(ErrorOf(bad), HasSubstr("line ")) << bad;
  }
}

}  // namespace
}  // namespace moed
