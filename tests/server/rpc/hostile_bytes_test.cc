// What a client sends that does not speak the protocol, or only half of it: the server goes on.
#include <arpa/inet.h>
#include <grpcpp/security/credentials.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "config/base/unique_fd.h"
#include "tests/server/rpc/raw_call.h"
#include "tests/server/rpc/rpc_server_fixture.h"

namespace moed {
namespace {

constexpr char kPreface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
constexpr char kEndStream = 0x1, kEndHeaders = 0x4;
constexpr char kData = 0, kHeaders = 1, kResetStream = 3, kSettings = 4, kContinuation = 9;

std::string Frame(char type, char flags, uint32_t stream, const std::string& payload) {
  const auto n = static_cast<uint32_t>(payload.size());
  std::string frame = {static_cast<char>(n >> 16),
                       static_cast<char>(n >> 8),
                       static_cast<char>(n),
                       type,
                       flags,
                       static_cast<char>(stream >> 24),
                       static_cast<char>(stream >> 16),
                       static_cast<char>(stream >> 8),
                       static_cast<char>(stream)};
  return frame + payload;
}

// A header field that enters no table, both parts shorter than 127 bytes.
std::string Field(const std::string& name, const std::string& value) {
  return std::string(1, 0) + static_cast<char>(name.size()) + name +
         static_cast<char>(value.size()) + value;
}

std::string RequestHeaders() {
  return Field(":method", "POST") + Field(":scheme", "http") +
         Field(":path", "/moed.v1.InferenceService/GetModel") + Field(":authority", "moed") +
         Field("te", "trailers") + Field("content-type", "application/grpc");
}

// A whole good call: preface, settings, headers, an empty message.
std::string GoodBytes() {
  return kPreface + Frame(kSettings, 0, 0, "") + Frame(kHeaders, kEndHeaders, 1, RequestHeaders()) +
         Frame(kData, kEndStream, 1, std::string(5, 0));
}

class HostileBytesTest : public RpcServerFixture {
 protected:
  void SetUp() override {
    auto server = RpcServer::Start({.listen = "127.0.0.1:0",
                                    .model = model_,
                                    .tokenizer = *tokenizer_,
                                    .placement = placement_,
                                    .loop = loop_,
                                    .ranks = [] { return std::vector<RankView>(); },
                                    .drain_timeout = absl::Seconds(1)});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  UniqueFd ConnectRaw() const {
    sockaddr_in address{.sin_family = AF_INET};
    int port = 0;
    EXPECT_TRUE(absl::SimpleAtoi(server_->address().substr(10), &port));
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    return fd;
  }

  // Sends what the server still takes.
  static void Send(const UniqueFd& fd, const std::string& bytes) {
    for (size_t sent = 0; sent < bytes.size();) {
      const ssize_t n = ::send(fd.get(), bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
      if (n <= 0) return;
      sent += n;
    }
  }

  // What the server says until it closes the connection or has said `num_bytes`.
  static std::string Receive(const UniqueFd& fd, size_t num_bytes) {
    std::string bytes;
    char buffer[4096];
    while (bytes.size() < num_bytes) {
      pollfd ready{.fd = fd.get(), .events = POLLIN};
      if (::poll(&ready, 1, 20'000) != 1) break;
      const ssize_t n = ::recv(fd.get(), buffer, sizeof(buffer), 0);
      if (n <= 0) break;
      bytes.append(buffer, n);
    }
    return bytes;
  }

  void ExpectItServes() const {
    const auto channel = NewChannel(server_->address(), grpc::InsecureChannelCredentials());
    const grpc::Status status = RawCall(channel, "moed.v1.InferenceService/GetModel", "");
    EXPECT_TRUE(status.ok()) << status.error_message();
  }

  std::string RandomBytes(size_t num_bytes) {
    std::string bytes(num_bytes, 0);
    std::ranges::generate(bytes, [this] { return static_cast<char>(random_()); });
    return bytes;
  }

  std::mt19937 random_{12345};
};

TEST_F(HostileBytesTest, TheGoodBytesAreAnsweredSoThatTheOthersProveSomething) {
  const UniqueFd fd = ConnectRaw();
  Send(fd, GoodBytes());
  std::string answer;
  while (answer.find("grpc-status") == std::string::npos) {
    const std::string more = Receive(fd, 1);
    ASSERT_FALSE(more.empty());
    answer += more;
  }
  EXPECT_NE(answer.find("tiny"), std::string::npos) << "the model's name";
}

TEST_F(HostileBytesTest, RandomBytesLeaveItServing) {
  for (int i = 0; i < 200; ++i) Send(ConnectRaw(), RandomBytes(1 + random_() % 2000));
  ExpectItServes();
  for (int i = 0; i < 200; ++i) Send(ConnectRaw(), kPreface + RandomBytes(1 + random_() % 2000));
  ExpectItServes();
}

TEST_F(HostileBytesTest, AnyBeginningOfAGoodCallLeavesItServing) {
  const std::string good = GoodBytes();
  for (size_t size = 0; size <= good.size(); ++size) Send(ConnectRaw(), good.substr(0, size));
  ExpectItServes();
}

TEST_F(HostileBytesTest, AGoodCallWithSomeBytesChangedLeavesItServing) {
  const std::string good = GoodBytes();
  for (int i = 0; i < 500; ++i) {
    std::string bytes = good;
    for (uint32_t n = 1 + random_() % 3; n > 0; --n) {
      bytes[sizeof(kPreface) - 1 + random_() % (bytes.size() - sizeof(kPreface) + 1)] =
          static_cast<char>(random_());
    }
    Send(ConnectRaw(), bytes);
  }
  ExpectItServes();
}

TEST_F(HostileBytesTest, FramesOfEveryTypeAndOfAnyStreamLeaveItServing) {
  for (int i = 0; i < 300; ++i) {
    std::string bytes = kPreface + Frame(kSettings, 0, 0, "");
    for (int frame = 0; frame < 5; ++frame) {
      bytes += Frame(static_cast<char>(random_() % 12), static_cast<char>(random_()), random_() % 4,
                     RandomBytes(random_() % 100));
    }
    Send(ConnectRaw(), bytes);
  }
  ExpectItServes();
}

TEST_F(HostileBytesTest, ConnectionsThatAreHalfOpenLeaveItServing) {
  std::vector<UniqueFd> open;
  const std::string good = GoodBytes();
  for (int i = 0; i < 200; ++i) {
    open.push_back(ConnectRaw());
    Send(open.back(), good.substr(0, random_() % good.size()));
  }
  ExpectItServes();
  // Half of them close their sending side and stay.
  for (size_t i = 0; i < open.size(); i += 2) ::shutdown(open[i].get(), SHUT_WR);
  ExpectItServes();
}

TEST_F(HostileBytesTest, StreamsThatAreResetAtOnceLeaveItServing) {
  std::string bytes = kPreface + Frame(kSettings, 0, 0, "");
  for (uint32_t stream = 1; stream < 4000; stream += 2) {
    bytes += Frame(kHeaders, kEndHeaders, stream, RequestHeaders()) +
             Frame(kResetStream, 0, stream, std::string(4, 8));
  }
  Send(ConnectRaw(), bytes);
  ExpectItServes();
}

TEST_F(HostileBytesTest, HeadersAboveTheBoundAreRefusedAndLeaveItServing) {
  std::string block = RequestHeaders();
  for (int i = 0; i < 200; ++i) block += Field("x-filler", std::string(120, 'f'));
  std::string bytes = kPreface + Frame(kSettings, 0, 0, "");
  bytes += Frame(kHeaders, 0, 1, block.substr(0, 16000)) +
           Frame(kContinuation, kEndHeaders, 1, block.substr(16000)) +
           Frame(kData, kEndStream, 1, std::string(5, 0));
  const UniqueFd fd = ConnectRaw();
  Send(fd, bytes);
  ::shutdown(fd.get(), SHUT_WR);
  EXPECT_EQ(Receive(fd, 1 << 20).find("tiny"), std::string::npos);
  ExpectItServes();
}

}  // namespace
}  // namespace moed
