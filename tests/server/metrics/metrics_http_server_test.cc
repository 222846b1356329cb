#include "server/metrics/metrics_http_server.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <atomic>
#include <string>

#include "config/base/unique_fd.h"

namespace moed {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

// The whole answer to "GET path" of the server at 127.0.0.1:port.
std::string Get(const std::string& address, const std::string& path) {
  const UniqueFd fd(::socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in peer = {};
  peer.sin_family = AF_INET;
  peer.sin_port = htons(static_cast<uint16_t>(std::stoi(address.substr(address.rfind(':') + 1))));
  peer.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&peer), sizeof(peer)) != 0) return "refused";
  const std::string request = "GET " + path + " HTTP/1.0\r\n\r\n";
  if (::write(fd.get(), request.data(), request.size()) < 0) return "lost";
  std::string answer;
  char buffer[4096];
  for (ssize_t n = 0; (n = ::read(fd.get(), buffer, sizeof(buffer))) > 0;) answer.append(buffer, n);
  return answer;
}

class MetricsHttpServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto server = MetricsHttpServer::Start({.listen = "127.0.0.1:0",
                                            .metrics_text = [] { return "moed_up 1\n"; },
                                            .state = [this] { return state_.load(); }});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  std::atomic<ServingState> state_ = ServingState::kLoading;
  std::unique_ptr<MetricsHttpServer> server_;
};

TEST_F(MetricsHttpServerTest, PortZeroBecomesAnActualPort) {
  EXPECT_THAT(server_->address(), StartsWith("127.0.0.1:"));
  EXPECT_NE(server_->address(), "127.0.0.1:0");
}

TEST_F(MetricsHttpServerTest, MetricsAreServedAsPrometheusText) {
  const std::string answer = Get(server_->address(), "/metrics");
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 200 OK\r\n"));
  EXPECT_THAT(answer, HasSubstr("Content-Type: text/plain; version=0.0.4"));
  EXPECT_THAT(answer, EndsWith("\r\n\r\nmoed_up 1\n"));
}

TEST_F(MetricsHttpServerTest, HealthyWheneverTheProcessLivesButReadyOnlyWhenServing) {
  for (const ServingState state : {ServingState::kLoading, ServingState::kRecovering,
                                   ServingState::kDraining, ServingState::kStopped}) {
    state_ = state;
    EXPECT_THAT(Get(server_->address(), "/healthz"), StartsWith("HTTP/1.1 200"));
    const std::string answer = Get(server_->address(), "/readyz");
    EXPECT_THAT(answer, StartsWith("HTTP/1.1 503"));
    EXPECT_THAT(answer, EndsWith(std::string(Name(state)) + "\n"));
  }
  state_ = ServingState::kServing;
  EXPECT_THAT(Get(server_->address(), "/readyz"), StartsWith("HTTP/1.1 200"));
}

TEST_F(MetricsHttpServerTest, AnythingElseIsNotFound) {
  EXPECT_THAT(Get(server_->address(), "/etc/passwd"), HasSubstr(" 404 Not Found\r\n"));
}

TEST_F(MetricsHttpServerTest, AnAddressInUseIsRefusedByName) {
  auto second = MetricsHttpServer::Start({.listen = server_->address(),
                                          .metrics_text = [] { return ""; },
                                          .state = [] { return ServingState::kServing; }});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(server_->address()));
}

}  // namespace
}  // namespace moed
