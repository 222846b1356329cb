#include "server/rpc/rpc_server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/impl/server_builder_option.h>
#include <grpcpp/impl/server_builder_plugin.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "config/base/status_macros.h"
#include "server/rpc/admin_service.h"
#include "server/rpc/admission.h"
#include "server/rpc/inference_service.h"
#include "server/rpc/tls_credentials.h"
#include "server/rpc/tokenizer_pool.h"

namespace moed {
namespace {

constexpr int kMaxMetadataBytes = 8 << 10;
constexpr int kMaxConcurrentStreams = 1024;  // of one connection
constexpr int kHandshakeTimeoutMs = 10'000;  // until TLS and HTTP/2 are agreed on
constexpr int kMaxIdleMs = 15 * 60'000;      // of a connection without a call
constexpr int32_t kAdminSocketMode = 0600;

// The largest good request: a text, or ids of five bytes each, and what goes with it.
int MaxReceiveBytes(const ServedModel& model) {
  constexpr int64_t kOtherBytes = 256 << 10;  // stop strings, allowed ids, logit biases
  constexpr int64_t kBytesPerId = 5;
  const int64_t num_bytes =
      kBytesPerId * std::max<int64_t>(model.max_text_bytes, model.max_model_len) + kOtherBytes;
  return static_cast<int>(std::min<int64_t>(num_bytes, std::numeric_limits<int>::max()));
}

void SetLimits(grpc::ServerBuilder& builder, const RpcServer::Params& params,
               grpc::ResourceQuota& quota) {
  builder.SetResourceQuota(quota);
  builder.SetMaxReceiveMessageSize(MaxReceiveBytes(params.model));
  builder.SetMaxSendMessageSize(-1);
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, kMaxMetadataBytes);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxConcurrentStreams);
  builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, kHandshakeTimeoutMs);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS, kMaxIdleMs);
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

std::shared_ptr<grpc::ServerCredentials> CredentialsFor(const std::string& listen,
                                                        const CertificateStore* certificates) {
  const bool is_plain = certificates == nullptr || listen.starts_with("unix:");
  return is_plain ? grpc::InsecureServerCredentials() : MakeTlsCredentials(*certificates);
}

absl::Status SetSocketMode(const std::string& listen, int32_t mode) {
  if (!listen.starts_with("unix:")) return absl::OkStatus();
  const std::string path = listen.substr(5);
  if (::chmod(path.c_str(), static_cast<mode_t>(mode)) == 0) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, absl::StrFormat("cannot set the mode of %s", path));
}

TokenizerPool::Params PoolParams(const RpcLimits& limits) {
  return {.num_threads = limits.num_tokenizer_threads,
          .max_waiting_texts = limits.max_waiting_texts,
          .max_waiting_bytes = limits.max_waiting_text_bytes};
}

InferenceService::Params InferenceParams(const RpcServer::Params& params,
                                         const Admission& admission, TokenizerPool& pool) {
  return {.model = params.model,
          .tokenizer = params.tokenizer,
          .loop = params.loop,
          .admission = admission,
          .tokenizer_pool = pool,
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

// Takes out the reflection service, which linking its library puts into every server.
class WithoutReflection final : public grpc::ServerBuilderOption {
 public:
  void UpdateArguments(grpc::ChannelArguments*) override {}
  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>* plugins) override {
    std::erase_if(*plugins,
                  [](const auto& plugin) { return plugin->name() == "proto_server_reflection"; });
  }
};

// An address and the server that listens there.
struct Listener {
  std::string address;  // as configured; once it listens, with the actual port
  int32_t socket_mode = 0;
  std::vector<grpc::Service*> services;
  // gRPC lets go of them when it listens, and asks them for certificates at every connection.
  std::shared_ptr<grpc::ServerCredentials> credentials;
  std::unique_ptr<grpc::Server> server;
};

}  // namespace

struct RpcServer::Parts {
  explicit Parts(const Params& params)
      : loop(params.loop),
        quotas(params.limits.max_tenant_calls),
        admission(params.authenticator, quotas, params.observer),
        pool(PoolParams(params.limits)),
        inference(InferenceParams(params, admission, pool)),
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
    for (const Listener* listener : {&front, &back}) {
      if (listener->server == nullptr) continue;
      for (const char* name : {"", "moed.v1.InferenceService", "moed.v1.AdminService"}) {
        listener->server->GetHealthCheckService()->SetServingStatus(name, serving);
      }
    }
  }

  absl::Status Listen(const Params& params);
  absl::Status Start(const Params& params, Listener& listener);
  void Shutdown(absl::Duration grace);

  StepLoop& loop;
  TenantQuotas quotas;
  const Admission admission;
  TokenizerPool pool;
  InferenceService inference;
  AdminService admin;
  grpc::ResourceQuota quota{"moed"};
  absl::Notification started;  // the servers are set
  Listener front;              // last: they go first
  Listener back;               // for the operator; without a server unless it has its own address
};

absl::Status RpcServer::Parts::Listen(const Params& params) {
  quota.Resize(static_cast<size_t>(params.limits.memory_bytes));
  front = {.address = params.listen, .socket_mode = params.socket_mode, .services = {&inference}};
  if (params.admin_listen.empty()) {
    front.services.push_back(&admin);
    return Start(params, front);
  }
  back = {.address = params.admin_listen, .socket_mode = kAdminSocketMode, .services = {&admin}};
  MOED_RETURN_IF_ERROR(Start(params, front));
  return Start(params, back);
}

absl::Status RpcServer::Parts::Start(const Params& params, Listener& listener) {
  grpc::ServerBuilder builder;
  int port = 0;
  const std::string listen = listener.address;
  listener.credentials = CredentialsFor(listen, params.certificates);
  builder.AddListeningPort(listen, listener.credentials, &port);
  for (grpc::Service* service : listener.services) builder.RegisterService(service);
  if (!params.reflection) builder.SetOption(std::make_unique<WithoutReflection>());
  SetLimits(builder, params, quota);
  SetKeepalive(builder);
  listener.server = builder.BuildAndStart();
  if (listener.server == nullptr) {
    return absl::UnavailableError(
        absl::StrFormat("cannot listen on %s: the address is in use or not ours", listen));
  }
  listener.address = ActualAddress(listen, port);
  return SetSocketMode(listen, listener.socket_mode);
}

void RpcServer::Parts::Shutdown(absl::Duration grace) {
  const auto deadline = absl::ToChronoTime(absl::Now() + grace);
  for (const Listener* listener : {&front, &back}) {
    if (listener->server == nullptr) continue;
    listener->server->Shutdown(deadline);
    listener->server->Wait();
  }
}

RpcServer::RpcServer(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}

RpcServer::~RpcServer() { Shutdown(absl::ZeroDuration()); }

absl::StatusOr<std::unique_ptr<RpcServer>> RpcServer::Start(Params params) {
  auto parts = std::make_unique<Parts>(params);
  grpc::EnableDefaultHealthCheckService(true);
  if (params.reflection) grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  MOED_RETURN_IF_ERROR(parts->Listen(params));
  parts->started.Notify();
  parts->SetHealth(ServingState::kLoading);
  return std::unique_ptr<RpcServer>(new RpcServer(std::move(parts)));
}

const std::string& RpcServer::address() const { return parts_->front.address; }

const std::string& RpcServer::admin_address() const { return parts_->back.address; }

void RpcServer::SetServingState(ServingState state) { parts_->SetHealth(state); }

int32_t RpcServer::num_requests_left() const { return parts_->NumRequestsLeft(); }

StreamStats RpcServer::stream_stats() const {
  return {.num_streams = parts_->inference.num_generate_calls(),
          .num_pending_bytes = parts_->inference.num_pending_bytes()};
}

void RpcServer::Shutdown(absl::Duration grace) { parts_->Shutdown(grace); }

}  // namespace moed
