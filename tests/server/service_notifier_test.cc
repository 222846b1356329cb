#include "server/service_notifier.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstddef>
#include <cstring>
#include <filesystem>
#include <string>

#include "config/base/unique_fd.h"

namespace moed {
namespace {

using ::testing::HasSubstr;

// Listens where a service manager would.
class ServiceNotifierTest : public ::testing::Test {
 protected:
  ServiceNotifierTest() {
    std::string pattern = "/tmp/moed_notifier_test_XXXXXX";
    directory_ = ::mkdtemp(pattern.data());
    path_ = directory_ + "/notify";
  }
  ~ServiceNotifierTest() override { std::filesystem::remove_all(directory_); }

  // `name` is the raw bytes of the address: abstract when it starts with a zero.
  void Listen(const std::string& name) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, name.data(), name.size());
    manager_ = UniqueFd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size());
    ASSERT_EQ(::bind(manager_.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
  }

  std::string Receive() const {
    char buffer[512];
    const ssize_t size = ::recv(manager_.get(), buffer, sizeof(buffer), MSG_DONTWAIT);
    return size < 0 ? "nothing" : std::string(buffer, static_cast<size_t>(size));
  }

  std::string directory_;
  std::string path_;
  UniqueFd manager_;
};

TEST_F(ServiceNotifierTest, SendsOneDatagramForEachMessage) {
  Listen(path_);
  const auto notifier = ServiceNotifier::Create(path_);
  ASSERT_TRUE(notifier.ok()) << notifier.status();
  ASSERT_TRUE((*notifier)->SetStatus("loading\nREADY=1").ok());
  ASSERT_TRUE((*notifier)->Ready().ok());
  ASSERT_TRUE((*notifier)->Stopping(absl::Seconds(31.5)).ok());
  EXPECT_EQ(Receive(), "STATUS=loading READY=1");
  EXPECT_EQ(Receive(), "READY=1");
  EXPECT_EQ(Receive(), "STOPPING=1\nEXTEND_TIMEOUT_USEC=31500000");
  EXPECT_EQ(Receive(), "nothing");
}

TEST_F(ServiceNotifierTest, ReachesAnAbstractName) {
  const std::string name = "moed-notifier-test-" + std::to_string(::getpid());
  Listen(std::string(1, '\0') + name);
  const auto notifier = ServiceNotifier::Create("@" + name);
  ASSERT_TRUE(notifier.ok()) << notifier.status();
  ASSERT_TRUE((*notifier)->Ready().ok());
  EXPECT_EQ(Receive(), "READY=1");
}

TEST_F(ServiceNotifierTest, IsAbsentWhenNobodyAsked) {
  ::unsetenv("NOTIFY_SOCKET");
  const auto notifier = ServiceNotifier::FromEnvironment();
  ASSERT_TRUE(notifier.ok()) << notifier.status();
  EXPECT_EQ(*notifier, nullptr);
}

TEST_F(ServiceNotifierTest, RefusesWhatIsNoAddressByName) {
  for (const std::string& bad :
       {std::string("relative"), std::string("/"), "/" + path_ + path_ + std::string(100, 'x')}) {
    EXPECT_THAT(ServiceNotifier::Create(bad).status().message(), HasSubstr("NOTIFY_SOCKET"));
  }
}

TEST_F(ServiceNotifierTest, SaysWhereNobodyListens) {
  EXPECT_THAT(ServiceNotifier::Create(path_).status().message(), HasSubstr(path_));
}

TEST_F(ServiceNotifierTest, ReportsAManagerThatWentAway) {
  Listen(path_);
  const auto notifier = ServiceNotifier::Create(path_);
  ASSERT_TRUE(notifier.ok()) << notifier.status();
  manager_ = UniqueFd();
  EXPECT_THAT((*notifier)->Ready().message(), HasSubstr("READY=1"));
}

}  // namespace
}  // namespace moed
