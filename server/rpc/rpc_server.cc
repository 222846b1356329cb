#include "server/rpc/rpc_server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "server/rpc/admin_service.h"
#include "server/rpc/admission.h"
#include "server/rpc/inference_service.h"

namespace moed {
namespace {

constexpr int kMaxReceiveBytes = 64 << 20;
constexpr int kMaxMetadataBytes = 16 << 10;
constexpr int kMaxConcurrentStreams = 1024;  // of one connection

void SetLimits(grpc::ServerBuilder& builder) {
  builder.SetMaxReceiveMessageSize(kMaxReceiveBytes);
  builder.SetMaxSendMessageSize(-1);
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, kMaxMetadataBytes);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxConcurrentStreams);
  // Two daemons must not share a port by accident.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
}

// Finds dead clients, and takes pings from proxies that send one every 20 s even when idle.
void SetKeepalive(grpc::ServerBuilder& builder) {
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 30'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10'000);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 2);
}

std::string ActualAddress(const std::string& listen, int port) {
  if (listen.starts_with("unix:")) return listen;
  return absl::StrFormat("%s:%d", listen.substr(0, listen.rfind(':')), port);
}

InferenceService::Params InferenceParams(const RpcServer::Params& params,
                                         const Admission& admission) {
  return {.model = params.model,
          .tokenizer = params.tokenizer,
          .loop = params.loop,
          .admission = admission,
          .max_pending_bytes = params.max_pending_bytes,
          .unread_timeout = params.unread_timeout,
          .random_prefix = params.random_prefix};
}

AdminService::Params AdminParams(const RpcServer::Params& params, const Admission& admission,
                                 std::function<void()> on_drain,
                                 std::function<int32_t()> num_requests_left) {
  return {.model = params.model,
          .loop = params.loop,
          .admission = admission,
          .placement = params.placement,
          .ranks = params.ranks,
          .on_drain = std::move(on_drain),
          .num_requests_left = std::move(num_requests_left),
          .drain_timeout = params.drain_timeout,
          .started = params.started};
}

}  // namespace

struct RpcServer::Parts {
  explicit Parts(const Params& params)
      : loop(params.loop),
        admission(params.authenticator, params.observer),
        inference(InferenceParams(params, admission)),
        admin(AdminParams(
            params, admission, [this] { BeginDrain(); }, [this] { return NumRequestsLeft(); })) {}

  void BeginDrain() {
    SetHealth(ServingState::kDraining);
    loop.BeginDrain();
  }

  int32_t NumRequestsLeft() const {
    return std::max(loop.num_requests(), inference.num_generate_calls());
  }

  void SetHealth(ServingState state) {
    started.WaitForNotification();  // a Drain may come in before BuildAndStart returns
    const bool serving = state == ServingState::kServing;
    for (const char* name : {"", "moed.v1.InferenceService", "moed.v1.AdminService"}) {
      server->GetHealthCheckService()->SetServingStatus(name, serving);
    }
  }

  StepLoop& loop;
  const Admission admission;
  InferenceService inference;
  AdminService admin;
  std::string address;
  absl::Notification started;            // `server` is set
  std::unique_ptr<grpc::Server> server;  // last: goes first
};

RpcServer::RpcServer(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}

RpcServer::~RpcServer() { Shutdown(absl::ZeroDuration()); }

absl::StatusOr<std::unique_ptr<RpcServer>> RpcServer::Start(Params params) {
  auto parts = std::make_unique<Parts>(params);
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(params.listen, grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&parts->inference);
  builder.RegisterService(&parts->admin);
  SetLimits(builder);
  SetKeepalive(builder);
  parts->server = builder.BuildAndStart();
  if (parts->server == nullptr) {
    return absl::UnavailableError(
        absl::StrFormat("cannot listen on %s: the address is in use or not ours", params.listen));
  }
  parts->started.Notify();
  parts->address = ActualAddress(params.listen, port);
  parts->SetHealth(ServingState::kLoading);
  return std::unique_ptr<RpcServer>(new RpcServer(std::move(parts)));
}

const std::string& RpcServer::address() const { return parts_->address; }

void RpcServer::SetServingState(ServingState state) { parts_->SetHealth(state); }

int32_t RpcServer::num_requests_left() const { return parts_->NumRequestsLeft(); }

void RpcServer::Shutdown(absl::Duration grace) {
  parts_->server->Shutdown(absl::ToChronoTime(absl::Now() + grace));
  parts_->server->Wait();
}

}  // namespace moed
