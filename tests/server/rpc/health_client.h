#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/completion_queue.h>
#include <grpcpp/generic/generic_stub.h>

#include <memory>
#include <string>

namespace moed {

enum class Health { kServing, kNotServing, kNotFound, kFailed };

/// What grpc.health.v1.Health/Check says about a service.
Health CheckHealth(const std::shared_ptr<grpc::Channel>& channel, const std::string& service);

/// A stream of grpc.health.v1.Health/Watch for "", open until it is destroyed. For one thread.
class HealthWatch {
 public:
  explicit HealthWatch(const std::shared_ptr<grpc::Channel>& channel);
  ~HealthWatch();

  /// Waits for the next state; kFailed at the end of the stream.
  Health Next();

 private:
  bool Await();  // the operation just started

  grpc::GenericStub stub_;
  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> call_;
};

}  // namespace moed
