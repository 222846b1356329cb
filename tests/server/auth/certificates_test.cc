#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "server/auth/certificate_store.h"
#include "server/auth/reloaded_secrets.h"
#include "tests/server/auth/test_certificates.h"

namespace moed {
namespace {

using ::testing::HasSubstr;

class CertificatesTest : public ::testing::Test {
 protected:
  CertificatesTest() {
    std::string pattern = "/tmp/moed_certificates_test_XXXXXX";
    directory_ = ::mkdtemp(pattern.data());
    paths_ = {.certificate = directory_ + "/tls.crt",
              .key = directory_ + "/tls.key",
              .client_ca = directory_ + "/ca.crt"};
    Write(paths_.client_ca, ca_.certificate_pem());
    WritePair(ca_.Issue("first"));
  }
  ~CertificatesTest() override { std::filesystem::remove_all(directory_); }

  static void Write(const std::string& path, const std::string& text) {
    std::ofstream(path) << text;
  }
  void WritePair(const PemPair& pair) {
    Write(paths_.certificate, pair.certificate);
    Write(paths_.key, pair.key);
  }

  std::string ErrorOfLoad() const {
    return std::string(LoadCertificates(paths_, absl::Now()).status().message());
  }

  const TestCa ca_{"ca"};
  std::string directory_;
  CertificatePaths paths_;
};

TEST_F(CertificatesTest, FilesThatFitEachOtherAreTaken) {
  const auto set = LoadCertificates(paths_, absl::Now());
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_THAT(set->certificate, HasSubstr("BEGIN CERTIFICATE"));
  EXPECT_EQ(set->client_ca, ca_.certificate_pem());
}

TEST_F(CertificatesTest, AKeyOfAnotherCertificateIsRefused) {
  Write(paths_.key, ca_.Issue("another").key);
  EXPECT_THAT(ErrorOfLoad(), HasSubstr("this is not the key of the certificate"));
}

TEST_F(CertificatesTest, WhatDoesNotParseIsRefusedByItsName) {
  for (const std::string& path : {paths_.certificate, paths_.key, paths_.client_ca}) {
    std::string text;
    std::getline(std::ifstream(path), text, '\0');
    Write(path, text.substr(0, text.size() / 2));
    EXPECT_THAT(ErrorOfLoad(), HasSubstr(path));
    Write(path, text);
    EXPECT_EQ(ErrorOfLoad(), "");
  }
}

TEST_F(CertificatesTest, ABrokenCertificateBehindAGoodOneIsRefused) {
  const std::string broken =
      "-----BEGIN CERTIFICATE-----\nbm90IGEgY2VydGlmaWNhdGU=\n-----END CERTIFICATE-----\n";
  for (const std::string& path : {paths_.certificate, paths_.client_ca}) {
    std::string text;
    std::getline(std::ifstream(path), text, '\0');
    Write(path, text + broken);
    EXPECT_THAT(ErrorOfLoad(), HasSubstr(path + ": a certificate after the first is broken"));
    Write(path, text + text);
    EXPECT_EQ(ErrorOfLoad(), "");
    Write(path, text);
  }
}

TEST_F(CertificatesTest, AnExpiredCertificateIsRefused) {
  WritePair(ca_.Issue("old", absl::Seconds(10)));
  EXPECT_EQ(ErrorOfLoad(), "");
  const absl::Status later = LoadCertificates(paths_, absl::Now() + absl::Minutes(1)).status();
  EXPECT_THAT(std::string(later.message()), HasSubstr("has expired"));
}

TEST_F(CertificatesTest, AReloadCountsOnlyWhenSomethingChangedAndABrokenOneChangesNothing) {
  auto store = CertificateStore::Load(paths_, absl::Now());
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_EQ((*store)->current().number, 1u);
  ASSERT_TRUE((*store)->Reload(absl::Now()).ok());
  EXPECT_EQ((*store)->current().number, 1u);
  const PemPair second = ca_.Issue("second");
  Write(paths_.certificate, second.certificate);  // the key has not come yet
  EXPECT_FALSE((*store)->Reload(absl::Now()).ok());
  EXPECT_EQ((*store)->current().number, 1u);
  Write(paths_.key, second.key);
  ASSERT_TRUE((*store)->Reload(absl::Now()).ok());
  EXPECT_EQ((*store)->current().number, 2u);
  EXPECT_EQ((*store)->current().set->certificate, second.certificate);
}

TEST_F(CertificatesTest, AWatcherSeesFilesThatASymbolicLinkSwaps) {
  // As Kubernetes mounts a secret: file -> data/file, data -> a directory that is replaced.
  for (const char* version : {"v1", "v2"}) {
    std::filesystem::create_directory(directory_ + "/" + version);
    Write(directory_ + "/" + version + "/token", version);
  }
  std::filesystem::create_symlink("v1", directory_ + "/data");
  std::filesystem::create_symlink("data/token", directory_ + "/token");
  absl::Notification changed;
  FileWatcher watcher({.paths = {directory_ + "/token"},
                       .interval = absl::Milliseconds(1),
                       .on_change = [&changed] {
                         if (!changed.HasBeenNotified()) changed.Notify();
                       }});
  std::filesystem::create_symlink("v2", directory_ + "/new");
  std::filesystem::rename(directory_ + "/new", directory_ + "/data");
  EXPECT_TRUE(changed.WaitForNotificationWithTimeout(absl::Seconds(30)));
}

TEST_F(CertificatesTest, SecretsFollowTheirFiles) {
  const auto line = [](const std::string& token) {
    return "token acme sha256:" + ToHex(HashToken(token)) + "\n";
  };
  const std::string tokens = directory_ + "/tokens";
  Write(tokens, line("old"));
  auto secrets = ReloadedSecrets::Load({.token_file = tokens,
                                        .methods = {"moed.v1.InferenceService/Generate"},
                                        .certificates = paths_,
                                        .interval = absl::Milliseconds(1)});
  ASSERT_TRUE(secrets.ok()) << secrets.status();
  Write(tokens, line("new"));
  WritePair(ca_.Issue("second"));
  const absl::Time end = absl::Now() + absl::Seconds(30);
  const auto is_new = [&] {
    return (*secrets)
        ->authenticator()
        ->Authenticate("Bearer new", "moed.v1.InferenceService/Generate")
        .ok();
  };
  while (absl::Now() < end && (!is_new() || (*secrets)->certificates()->current().number < 2)) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  EXPECT_TRUE(is_new());
  EXPECT_EQ((*secrets)->certificates()->current().number, 2u);
}

TEST_F(CertificatesTest, BrokenSecretsAreAnErrorAtTheStart) {
  EXPECT_EQ(ReloadedSecrets::Load({.token_file = directory_ + "/none"}).status().code(),
            absl::StatusCode::kNotFound);
  Write(paths_.key, "");
  EXPECT_FALSE(ReloadedSecrets::Load({.certificates = paths_}).ok());
  const auto none = ReloadedSecrets::Load({});
  ASSERT_TRUE(none.ok());
  EXPECT_EQ((*none)->authenticator(), nullptr);
  EXPECT_EQ((*none)->certificates(), nullptr);
}

}  // namespace
}  // namespace moed
