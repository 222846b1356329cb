#include "server/auth/token_authenticator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <string>

namespace moed {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class TokenAuthenticatorTest : public ::testing::Test {
 protected:
  std::string WriteFile(const std::string& text) {
    const std::string path = ::testing::TempDir() + "/tokens_" +
                             ::testing::UnitTest::GetInstance()->current_test_info()->name();
    std::ofstream(path) << text;
    return path;
  }
};

TEST_F(TokenAuthenticatorTest, AnyTokenOfTheFileIsLetIn) {
  auto auth = TokenAuthenticator::Load(WriteFile("# operators\nalpha-1\n\n  beta-2  \r\n"));
  ASSERT_TRUE(auth.ok()) << auth.status();
  EXPECT_TRUE(auth->Check("Bearer alpha-1").ok());
  EXPECT_TRUE(auth->Check("bearer beta-2").ok());
}

TEST_F(TokenAuthenticatorTest, EverythingElseIsUnauthenticatedAndSaysNothingAboutTheTokens) {
  auto auth = TokenAuthenticator::Load(WriteFile("abcabc\n"));
  ASSERT_TRUE(auth.ok()) << auth.status();
  for (const char* header :
       {"", "abcabc", "Basic abcabc", "Bearer ", "Bearer abc", "Bearer abcabcabc", "Bearer abcabd",
        "Bearer ABCABC", "Bearer # operators"}) {
    const absl::Status status = auth->Check(header);
    EXPECT_EQ(status.code(), absl::StatusCode::kUnauthenticated) << header;
    EXPECT_THAT(std::string(status.message()), Not(HasSubstr("abcabc"))) << header;
  }
}

TEST_F(TokenAuthenticatorTest, AFileWithoutTokensIsRefusedInsteadOfLettingNobodyOrEverybodyIn) {
  EXPECT_EQ(TokenAuthenticator::Load(WriteFile("# none\n\n")).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(TokenAuthenticatorTest, ATokenThatNoHeaderCanCarryIsRefusedWithItsLine) {
  const absl::Status status = TokenAuthenticator::Load(WriteFile("good\nwith space\n")).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("line 2"));
  EXPECT_FALSE(TokenAuthenticator::Load(WriteFile(std::string(5000, 'x'))).ok());
}

TEST_F(TokenAuthenticatorTest, AMissingFileIsNamed) {
  const absl::Status status = TokenAuthenticator::Load("/nonexistent/tokens").status();
  EXPECT_THAT(std::string(status.message()), HasSubstr("/nonexistent/tokens"));
}

}  // namespace
}  // namespace moed
