#include "client/make_token.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "client/channel_credentials.h"
#include "config/token_hash.h"

namespace moed {
namespace {

using ::testing::HasSubstr;

class MakeTokenTest : public ::testing::Test {
 protected:
  MakeTokenTest() {
    std::string pattern = "/tmp/moed_make_token_test_XXXXXX";
    directory_ = ::mkdtemp(pattern.data());
  }
  ~MakeTokenTest() override { std::filesystem::remove_all(directory_); }

  std::string Write(const std::string& name, const std::string& text) {
    std::ofstream(directory_ + "/" + name) << text;
    return directory_ + "/" + name;
  }

  std::string directory_;
};

TEST_F(MakeTokenTest, ANewTokenIsInAFileOfItsOwnerOnlyAndItsHashInTheLine) {
  const TokenFlags flags = {.tenant = "acme", .secret_file = directory_ + "/secret"};
  const auto line = MakeTokenLine(flags);
  ASSERT_TRUE(line.ok()) << line.status();
  EXPECT_EQ(std::filesystem::status(flags.secret_file).permissions(), std::filesystem::perms(0600));
  std::string token;
  std::getline(std::ifstream(flags.secret_file), token);
  EXPECT_GE(token.size(), 43u) << "256 bits";
  EXPECT_EQ(*line,
            absl::StrCat("token acme sha256:", ToHex(HashToken(token)), " methods=inference\n"));
  EXPECT_EQ(MakeTokenLine(flags).status().code(), absl::StatusCode::kAlreadyExists);
}

TEST_F(MakeTokenTest, ATokenThatExistsIsHashedWithoutItsLineEnd) {
  const auto line = MakeTokenLine(
      {.tenant = "ops", .methods = "admin", .from_file = Write("token", "open-sesame\n")});
  ASSERT_TRUE(line.ok()) << line.status();
  // printf %s open-sesame | sha256sum
  EXPECT_EQ(*line,
            "token ops sha256:d7ecdf25eaf3deba0f2628771dbdd22d4138ab6cf38f91ed02a2ca0dec7c8ab7 "
            "methods=admin\n");
}

TEST_F(MakeTokenTest, OneOfTheTwoFilesIsNeeded) {
  EXPECT_THAT(std::string(MakeTokenLine({.tenant = "a"}).status().message()),
              HasSubstr("--secret-file"));
}

TEST_F(MakeTokenTest, TlsFlagsThatDoNotGoTogetherAreRefused) {
  EXPECT_TRUE(MakeChannelCredentials({}).ok());
  EXPECT_THAT(std::string(MakeChannelCredentials({.tls_cert = "c"}).status().message()),
              HasSubstr("--tls-key"));
  EXPECT_THAT(
      std::string(MakeChannelCredentials({.tls_cert = "c", .tls_key = "k"}).status().message()),
      HasSubstr("--tls-ca"));
  EXPECT_THAT(std::string(MakeChannelCredentials({.tls_ca = "/none"}).status().message()),
              HasSubstr("/none"));
  EXPECT_TRUE(
      MakeChannelCredentials({.tls_ca = Write("ca.crt", "not read until connecting")}).ok());
}

}  // namespace
}  // namespace moed
