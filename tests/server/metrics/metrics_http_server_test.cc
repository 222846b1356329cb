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
using ::testing::Not;
using ::testing::StartsWith;

// The whole answer to a request of the server at 127.0.0.1:port.
std::string Ask(const std::string& address, const std::string& method, const std::string& path) {
  const UniqueFd fd(::socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in peer = {};
  peer.sin_family = AF_INET;
  peer.sin_port = htons(static_cast<uint16_t>(std::stoi(address.substr(address.rfind(':') + 1))));
  peer.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&peer), sizeof(peer)) != 0) return "refused";
  const std::string request = method + " " + path + " HTTP/1.0\r\n\r\n";
  if (::write(fd.get(), request.data(), request.size()) < 0) return "lost";
  std::string answer;
  char buffer[4096];
  for (ssize_t n = 0; (n = ::read(fd.get(), buffer, sizeof(buffer))) > 0;) answer.append(buffer, n);
  return answer;
}

std::string Get(const std::string& address, const std::string& path) {
  return Ask(address, "GET", path);
}

class MetricsHttpServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto server = MetricsHttpServer::Start({.listen = "127.0.0.1:0",
                                            .metrics_text = [] { return "moed_up 1\n"; },
                                            .experts_json = [] { return "{\"layers\":[]}\n"; },
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
  for (const char* path : {"/etc/passwd", "/index.html", "/x", "/%2e%2e/%2e%2e/etc/passwd"}) {
    EXPECT_THAT(Get(server_->address(), path), HasSubstr(" 404 Not Found\r\n")) << path;
  }
}

TEST_F(MetricsHttpServerTest, TheStatusPageIsOneFileThatMayLoadNothingElse) {
  const std::string answer = Get(server_->address(), "/");
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 200 OK\r\n"));
  EXPECT_THAT(answer, HasSubstr("Content-Type: text/html; charset=utf-8\r\n"));
  EXPECT_THAT(answer, HasSubstr("Content-Security-Policy: default-src 'none';"));
  EXPECT_THAT(answer, HasSubstr("X-Content-Type-Options: nosniff\r\n"));
  EXPECT_THAT(answer, EndsWith("</html>\n"));
  for (const char* outside : {"http://", "https://", "src=", "url(", "@import", "<link"}) {
    EXPECT_THAT(answer, Not(HasSubstr(outside)));
  }
}

TEST_F(MetricsHttpServerTest, ExpertLoadIsServedAsJson) {
  const std::string answer = Get(server_->address(), "/experts.json");
  EXPECT_THAT(answer, HasSubstr("Content-Type: application/json\r\n"));
  EXPECT_THAT(answer, EndsWith("\r\n\r\n{\"layers\":[]}\n"));
}

TEST_F(MetricsHttpServerTest, NothingButGetIsAnswered) {
  for (const char* method : {"POST", "PUT", "DELETE", "PATCH"}) {
    for (const char* path : {"/", "/metrics", "/experts.json"}) {
      EXPECT_THAT(Ask(server_->address(), method, path), Not(HasSubstr(" 200 "))) << method << path;
    }
  }
}

TEST_F(MetricsHttpServerTest, AnAddressInUseIsRefusedByName) {
  auto second = MetricsHttpServer::Start({.listen = server_->address(),
                                          .metrics_text = [] { return ""; },
                                          .experts_json = [] { return ""; },
                                          .state = [] { return ServingState::kServing; }});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(server_->address()));
}

}  // namespace
}  // namespace moed
