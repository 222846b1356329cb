#include "server/auth/token_authenticator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

namespace moed {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kMethod[] = "moed.v1.InferenceService/Generate";

std::string Line(const std::string& tenant, const std::string& token) {
  return absl::StrCat("token ", tenant, " sha256:", ToHex(HashToken(token)), "\n");
}

class TokenAuthenticatorTest : public ::testing::Test {
 protected:
  void Write(const std::string& text) { std::ofstream(path_) << text; }

  void Load() {
    auto loaded = TokenAuthenticator::Load(path_, {kMethod, "moed.v1.AdminService/Drain"});
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    authenticator_ = *std::move(loaded);
  }

  absl::StatusCode CodeOf(const std::string& header, const std::string& method = kMethod) {
    return authenticator_->Authenticate(header, method).status().code();
  }

  const std::string path_ = ::testing::TempDir() + "/tokens_" +
                            ::testing::UnitTest::GetInstance()->current_test_info()->name();
  std::unique_ptr<TokenAuthenticator> authenticator_;
};

TEST_F(TokenAuthenticatorTest, AKnownTokenSaysWhoCalls) {
  Write(Line("acme", "alpha-1") + Line("other", "beta-2"));
  Load();
  EXPECT_EQ(authenticator_->Authenticate("Bearer alpha-1", kMethod)->tenant, "acme");
  EXPECT_EQ(authenticator_->Authenticate("bearer beta-2", kMethod)->tenant, "other");
}

TEST_F(TokenAuthenticatorTest, EverythingElseIsUnauthenticatedAndSaysNothingAboutTheTokens) {
  Write(Line("acme", "abcabc"));
  Load();
  for (const std::string header :
       {"", "abcabc", "Basic abcabc", "Bearer ", "Bearer abc", "Bearer abcabcabc", "Bearer abcabd",
        "Bearer ABCABC", "Bearer  abcabc", "Bearer abcabc "}) {
    const absl::Status status = authenticator_->Authenticate(header, kMethod).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnauthenticated) << header;
    EXPECT_THAT(std::string(status.message()), Not(HasSubstr("abcabc"))) << header;
  }
  // What stands in the file does not open the door.
  const std::string hash = ToHex(HashToken("abcabc"));
  EXPECT_EQ(CodeOf("Bearer " + hash), absl::StatusCode::kUnauthenticated);
  EXPECT_EQ(CodeOf("Bearer sha256:" + hash), absl::StatusCode::kUnauthenticated);
}

TEST_F(TokenAuthenticatorTest, AMethodOutsideTheTokensListIsDenied) {
  Write(Line("acme", "alpha"));
  Load();
  EXPECT_EQ(CodeOf("Bearer alpha", "moed.v1.AdminService/Drain"),
            absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(CodeOf("Bearer alpha", "moed.v1.InferenceService/New"),
            absl::StatusCode::kPermissionDenied);
}

TEST_F(TokenAuthenticatorTest, AReloadReplacesTheTokens) {
  Write(Line("acme", "old"));
  Load();
  Write(Line("acme", "new"));
  ASSERT_TRUE(authenticator_->Reload().ok());
  EXPECT_EQ(CodeOf("Bearer old"), absl::StatusCode::kUnauthenticated);
  EXPECT_EQ(CodeOf("Bearer new"), absl::StatusCode::kOk);
}

TEST_F(TokenAuthenticatorTest, ABrokenFileLeavesTheTokensAsTheyWere) {
  Write(Line("acme", "old"));
  Load();
  for (const std::string broken : {"", "token acme", "rubbish\n"}) {
    Write(broken);
    EXPECT_FALSE(authenticator_->Reload().ok());
    EXPECT_EQ(CodeOf("Bearer old"), absl::StatusCode::kOk);
  }
  ASSERT_EQ(std::remove(path_.c_str()), 0);
  EXPECT_EQ(authenticator_->Reload().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(CodeOf("Bearer old"), absl::StatusCode::kOk);
}

TEST_F(TokenAuthenticatorTest, AMissingFileIsNamed) {
  const absl::Status status = TokenAuthenticator::Load("/nonexistent/tokens", {}).status();
  EXPECT_THAT(std::string(status.message()), HasSubstr("/nonexistent/tokens"));
}

}  // namespace
}  // namespace moed
