#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "server/auth/token_authenticator.h"
#include "server/metrics/rpc_observer.h"
#include "server/rpc/status_conversion.h"

namespace moed {

struct RpcMethod {
  absl::string_view service;
  absl::string_view method;
};

/// The door that every handler passes: authentication on the way in, accounting on the way out.
///
/// Owned by the RpcServer; immutable, so any thread may call it. Without an authenticator everyone
/// is let in.
class Admission {
 public:
  /// Both may be null; else they must outlive this object.
  Admission(const TokenAuthenticator* authenticator, RpcObserver* observer)
      : authenticator_(authenticator), observer_(observer) {}

  /// OK, or UNAUTHENTICATED.
  absl::Status Admit(const grpc::ServerContextBase& context) const;

  /// Counts an RPC that was answered. `arrival` is when its handler was called.
  void CountHandled(const RpcMethod& method, absl::StatusCode code, absl::Time arrival) const;

  /// Answers a unary RPC with the status of `body`, a function that returns absl::Status and fills
  /// the response; it runs only if the caller is admitted.
  template <typename Body>
  grpc::ServerUnaryReactor* RunUnary(grpc::CallbackServerContext& context, const RpcMethod& method,
                                     Body body) const {
    const absl::Time arrival = absl::Now();
    absl::Status status = Admit(context);
    if (status.ok()) status = body();
    CountHandled(method, status.code(), arrival);
    grpc::ServerUnaryReactor* reactor = context.DefaultReactor();
    reactor->Finish(ToGrpcStatus(status, context));
    return reactor;
  }

 private:
  const TokenAuthenticator* authenticator_;
  RpcObserver* observer_;
};

}  // namespace moed
