#pragma once

#include <grpcpp/channel.h>
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "moed/v1/inference.grpc.pb.h"
#include "server/rpc/rpc_server.h"
#include "tests/server/rpc/fake_step_loop.h"
#include "tests/server/rpc/test_model.h"

namespace moed {

/// A real gRPC server on a unix socket, with a fake step loop behind it.
class RpcServerFixture : public ::testing::Test {
 protected:
  RpcServerFixture();
  ~RpcServerFixture() override;

  /// Starts the server; with `authenticator` only its tokens are let in.
  void StartServer(const TokenAuthenticator* authenticator = nullptr);

  /// A new connection.
  std::shared_ptr<grpc::Channel> Connect() const;

  static v1::GenerateRequest TextRequest(const std::string& text);

  ServedModel model_ = TestModel();
  const std::unique_ptr<Tokenizer> tokenizer_ = TestTokenizer();
  const ExpertPlacement placement_ = ExpertPlacement::Linear(1, 4, 2);
  int64_t max_pending_bytes_ = 1 << 20;
  absl::Duration unread_timeout_ = absl::Seconds(60);
  RpcObserver* observer_ = nullptr;
  RpcLimits limits_;
  FakeStepLoop loop_;
  std::string directory_;
  std::unique_ptr<RpcServer> server_;
};

/// One Generate call, read message by message.
class GenerateCall {
 public:
  GenerateCall(const std::shared_ptr<grpc::Channel>& channel, const v1::GenerateRequest& request);
  ~GenerateCall();  // cancels what is still going on

  /// The next message, or nothing at the end of the stream.
  std::optional<v1::GenerateResponse> Read();
  /// Reads to the end and returns how it ended.
  grpc::Status Finish();

  grpc::ClientContext& context() { return context_; }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<v1::InferenceService::Stub> stub_;
  std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>> reader_;
  bool finished_ = false;
};

}  // namespace moed
