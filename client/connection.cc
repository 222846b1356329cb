#include "client/connection.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include <algorithm>
#include <chrono>

#include "absl/strings/str_cat.h"
#include "client/channel_credentials.h"
#include "client/input_text.h"
#include "config/base/status_macros.h"

namespace moed {
namespace {

constexpr int kMaxMessageBytes = 128 << 20;  // a whole model's expert counts, a long prompt
constexpr double kMaxTimeoutSeconds = 1e8;   // gRPC's clock ends some centuries from now

}  // namespace

absl::StatusOr<std::unique_ptr<Connection>> Connection::Create(const ConnectionFlags& flags) {
  std::unique_ptr<Connection> connection(new Connection());
  if (flags.timeout_s > 0) {
    const std::chrono::duration<double> timeout(std::min(flags.timeout_s, kMaxTimeoutSeconds));
    connection->context_.set_deadline(
        std::chrono::system_clock::now() +
        std::chrono::duration_cast<std::chrono::system_clock::duration>(timeout));
  }
  if (!flags.token_file.empty()) {
    MOED_ASSIGN_OR_RETURN(connection->token_, ReadToken(flags.token_file));
  }
  connection->Authorize(connection->context_);
  MOED_ASSIGN_OR_RETURN(const auto credentials, MakeChannelCredentials(flags));
  grpc::ChannelArguments args;
  args.SetMaxReceiveMessageSize(kMaxMessageBytes);
  args.SetMaxSendMessageSize(kMaxMessageBytes);
  // gRPC 1.51's bandwidth probe can stall a stream for 10 s when its reader was behind for a while.
  args.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  if (flags.separate) args.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  if (!flags.tls_server_name.empty()) args.SetSslTargetNameOverride(flags.tls_server_name);
  connection->channel_ = grpc::CreateCustomChannel(flags.server, credentials, args);
  return connection;
}

void Connection::Authorize(grpc::ClientContext& context) const {
  if (!token_.empty()) context.AddMetadata("authorization", absl::StrCat("Bearer ", token_));
}

void Connection::Interrupt() {
  absl::MutexLock lock(&mutex_);
  interrupted_ = true;
  context_.TryCancel();
}

bool Connection::interrupted() const {
  absl::MutexLock lock(&mutex_);
  return interrupted_;
}

}  // namespace moed
