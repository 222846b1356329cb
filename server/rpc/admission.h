#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "server/auth/tenant_quotas.h"
#include "server/auth/token_authenticator.h"
#include "server/metrics/rpc_observer.h"
#include "server/rpc/status_conversion.h"
#include "server/rpc/tokenizer_pool.h"

namespace moed {

struct RpcMethod {
  absl::string_view service;
  absl::string_view method;
};

/// The door that every handler passes: authentication, rights and rates on the way in, accounting
/// on the way out.
///
/// Owned by the RpcServer; any thread may call it. Without an authenticator everyone is let in, as
/// the tenant "".
class Admission {
 public:
  /// The first and the last may be null; all that are not must outlive this object.
  Admission(const TokenAuthenticator* authenticator, TenantQuotas& quotas, RpcObserver* observer)
      : authenticator_(authenticator), quotas_(quotas), observer_(observer) {}

  /// Who calls; or UNAUTHENTICATED, PERMISSION_DENIED, RESOURCE_EXHAUSTED.
  absl::StatusOr<TokenGrant> Admit(const grpc::ServerContextBase& context,
                                   const RpcMethod& method) const;

  /// Begins a call that uses tokens; RESOURCE_EXHAUSTED when its tenant has enough of them.
  absl::StatusOr<CallTicket> BeginCall(const TokenGrant& grant) const;

  /// Counts an RPC that was answered. `arrival` is when its handler was called.
  void CountHandled(const RpcMethod& method, absl::StatusCode code, absl::Time arrival) const;

  /// Answers a unary RPC with the status of `body`, a function that returns absl::Status and fills
  /// the response; it runs only if the caller is admitted.
  template <typename Body>
  grpc::ServerUnaryReactor* RunUnary(grpc::CallbackServerContext& context, const RpcMethod& method,
                                     Body body) const {
    const Answer answer = {*this, context, *context.DefaultReactor(), method, absl::Now()};
    absl::Status status = Admit(context, method).status();
    if (status.ok()) status = body();
    return answer.Finish(status);
  }

  /// The same, but `body`, which works on a text of `num_bytes`, runs on a thread of `pool`.
  template <typename Body>
  grpc::ServerUnaryReactor* RunUnaryIn(TokenizerPool& pool, grpc::CallbackServerContext& context,
                                       const RpcMethod& method, int64_t num_bytes,
                                       Body body) const {
    const Answer answer = {*this, context, *context.DefaultReactor(), method, absl::Now()};
    const absl::StatusOr<TokenGrant> grant = Admit(context, method);
    absl::Status status = grant.status();
    if (status.ok()) {
      status = pool.Post(grant->tenant, num_bytes, [answer, body] { answer.Finish(body()); });
    }
    return status.ok() ? &answer.reactor : answer.Finish(status);
  }

 private:
  // What it takes to answer a unary call, from any thread, once.
  struct Answer {
    const Admission& admission;
    grpc::CallbackServerContext& context;
    grpc::ServerUnaryReactor& reactor;
    RpcMethod method;
    absl::Time arrival;

    grpc::ServerUnaryReactor* Finish(const absl::Status& status) const {
      admission.CountHandled(method, status.code(), arrival);
      reactor.Finish(ToGrpcStatus(status, context));
      return &reactor;
    }
  };

  const TokenAuthenticator* authenticator_;
  TenantQuotas& quotas_;
  RpcObserver* observer_;
};

}  // namespace moed
