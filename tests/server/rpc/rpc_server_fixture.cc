#include "tests/server/rpc/rpc_server_fixture.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include <cstdlib>
#include <filesystem>

#include "absl/time/clock.h"

namespace moed {

RpcServerFixture::RpcServerFixture() {
  std::string pattern = "/tmp/moed_rpc_test_XXXXXX";
  directory_ = ::mkdtemp(pattern.data());
}

RpcServerFixture::~RpcServerFixture() {
  server_.reset();
  std::filesystem::remove_all(directory_);
}

void RpcServerFixture::StartServer(const TokenAuthenticator* authenticator) {
  auto server =
      RpcServer::Start({.listen = "unix:" + directory_ + "/moed.sock",
                        .model = model_,
                        .tokenizer = *tokenizer_,
                        .placement = placement_,
                        .loop = loop_,
                        .authenticator = authenticator,
                        .observer = observer_,
                        .limits = limits_,
                        .ranks =
                            [] {
                              return std::vector<RankView>{
                                  {.info = {.rank = 0, .device = "cpu"}, .pid = 4711, .up = true},
                                  {.info = {.rank = 1, .device = "cpu"}, .pid = 4712}};
                            },
                        .max_pending_bytes = max_pending_bytes_,
                        .unread_timeout = unread_timeout_,
                        .drain_timeout = absl::Seconds(30),
                        .started = absl::Now()});
  ASSERT_TRUE(server.ok()) << server.status();
  server_ = *std::move(server);
}

std::shared_ptr<grpc::Channel> RpcServerFixture::Connect() const {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  // A client of gRPC 1.51 that probes its bandwidth and reads late may wait ten seconds for its own
  // window update.
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  return grpc::CreateCustomChannel(server_->address(), grpc::InsecureChannelCredentials(),
                                   arguments);
}

v1::GenerateRequest RpcServerFixture::TextRequest(const std::string& text) {
  v1::GenerateRequest request;
  request.set_text(text);
  return request;
}

GenerateCall::GenerateCall(const std::shared_ptr<grpc::Channel>& channel,
                           const v1::GenerateRequest& request)
    : stub_(v1::InferenceService::NewStub(channel)), reader_(stub_->Generate(&context_, request)) {}

GenerateCall::~GenerateCall() {
  context_.TryCancel();
  if (!finished_) Finish();
}

std::optional<v1::GenerateResponse> GenerateCall::Read() {
  v1::GenerateResponse message;
  if (!reader_->Read(&message)) return std::nullopt;
  return message;
}

grpc::Status GenerateCall::Finish() {
  finished_ = true;
  while (Read().has_value()) {
  }
  return reader_->Finish();
}

}  // namespace moed
