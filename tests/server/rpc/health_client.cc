#include "tests/server/rpc/health_client.h"

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <vector>

namespace moed {
namespace {

// HealthCheckRequest{string service = 1}, by hand: the distribution ships no generated code for it.
grpc::ByteBuffer EncodeRequest(const std::string& service) {
  std::string bytes;
  if (!service.empty()) {
    bytes.push_back('\x0a');
    bytes.push_back(static_cast<char>(service.size()));
    bytes.append(service);
  }
  const grpc::Slice slice(bytes);
  return grpc::ByteBuffer(&slice, 1);
}

// HealthCheckResponse{ServingStatus status = 1}: SERVING is 1, NOT_SERVING is 2.
Health Decode(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  if (!buffer.Dump(&slices).ok()) return Health::kFailed;
  std::string bytes;
  for (const grpc::Slice& slice : slices) {
    bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  if (bytes == "\x08\x01") return Health::kServing;
  return bytes == "\x08\x02" ? Health::kNotServing : Health::kFailed;
}

}  // namespace

Health CheckHealth(const std::shared_ptr<grpc::Channel>& channel, const std::string& service) {
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  const auto call = stub.PrepareUnaryCall(&context, "/grpc.health.v1.Health/Check",
                                          EncodeRequest(service), &queue);
  call->StartCall();
  grpc::ByteBuffer response;
  grpc::Status status;
  call->Finish(&response, &status, &queue);
  void* tag = nullptr;
  bool ok = false;
  if (!queue.Next(&tag, &ok)) return Health::kFailed;
  if (status.error_code() == grpc::StatusCode::NOT_FOUND) return Health::kNotFound;
  return status.ok() ? Decode(response) : Health::kFailed;
}

HealthWatch::HealthWatch(const std::shared_ptr<grpc::Channel>& channel)
    : stub_(channel), call_(stub_.PrepareCall(&context_, "/grpc.health.v1.Health/Watch", &queue_)) {
  call_->StartCall(nullptr);
  Await();
  call_->WriteLast(EncodeRequest(""), {}, nullptr);
  Await();
}

HealthWatch::~HealthWatch() {
  context_.TryCancel();
  grpc::Status status;
  call_->Finish(&status, nullptr);
  Await();
}

Health HealthWatch::Next() {
  grpc::ByteBuffer response;
  call_->Read(&response, nullptr);
  return Await() ? Decode(response) : Health::kFailed;
}

bool HealthWatch::Await() {
  void* tag = nullptr;
  bool ok = false;
  return queue_.Next(&tag, &ok) && ok;
}

}  // namespace moed
