#include "tests/server/rpc/raw_call.h"

#include <grpcpp/client_context.h>
#include <grpcpp/completion_queue.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/byte_buffer.h>

#include <chrono>

#include "config/base/check.h"

namespace moed {
namespace {

// Waits for the one operation that is under way.
bool Await(grpc::CompletionQueue& queue) {
  void* tag = nullptr;
  bool ok = false;
  MOED_CHECK(queue.Next(&tag, &ok));
  return ok;
}

}  // namespace

std::shared_ptr<grpc::Channel> NewChannel(
    const std::string& address, const std::shared_ptr<grpc::ChannelCredentials>& credentials) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  return grpc::CreateCustomChannel(address, credentials, arguments);
}

grpc::Status RawCall(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
                     const std::string& token) {
  grpc::GenericStub stub(channel);
  grpc::CompletionQueue queue;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
  if (!token.empty()) context.AddMetadata("authorization", "Bearer " + token);
  const auto call = stub.PrepareCall(&context, "/" + method, &queue);
  call->StartCall(nullptr);
  bool ok = Await(queue);
  if (ok) {
    grpc::Slice empty;
    call->Write(grpc::ByteBuffer(&empty, 1), nullptr);
    ok = Await(queue);
  }
  if (ok) {
    call->WritesDone(nullptr);
    ok = Await(queue);
  }
  grpc::ByteBuffer answer;
  call->Read(&answer, nullptr);
  const bool was_answered = Await(queue);
  if (was_answered) context.TryCancel();
  grpc::Status status;
  call->Finish(&status, nullptr);
  Await(queue);
  return was_answered ? grpc::Status::OK : status;
}

}  // namespace moed
