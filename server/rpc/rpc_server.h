#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/api/expert_placement.h"
#include "server/auth/certificate_store.h"
#include "server/auth/token_authenticator.h"
#include "server/metrics/rank_view.h"
#include "server/metrics/rpc_observer.h"
#include "server/metrics/server_stats.h"
#include "server/rpc/served_model.h"
#include "server/step_loop.h"
#include "server/tokenizer/tokenizer.h"

namespace moed {

/// What clients may ask of the server at a time.
struct RpcLimits {
  int32_t max_tenant_calls = 1024;  // Generate calls of one tenant, where its limits do not say
  int32_t num_tokenizer_threads = 1;
  int32_t max_waiting_texts = 256;  // for these threads
  int64_t max_waiting_text_bytes = 64 << 20;
  int64_t memory_bytes = int64_t{1} << 30;  // of gRPC's buffers, before it refuses streams
};

/// The gRPC server with all its services, behind a door without gRPC.
///
/// Owned by the daemon and destroyed before what it refers to. All calls may come from any thread.
class RpcServer {
 public:
  /// References and pointers must outlive the server.
  struct Params {
    std::string listen;          // "HOST:PORT", port 0 for any; or "unix:PATH"
    std::string admin_listen;    // of AdminService alone; empty = it is at `listen` as well
    int32_t socket_mode = 0600;  // of the unix socket at `listen`; that at admin_listen has 0600
    const CertificateStore* certificates = nullptr;  // null: HOST:PORT speaks plaintext
    const ServedModel& model;
    const Tokenizer& tokenizer;
    const ExpertPlacement& placement;
    StepLoop& loop;
    const TokenAuthenticator* authenticator = nullptr;  // null: everyone is let in
    RpcObserver* observer = nullptr;                    // may be null
    RpcLimits limits;
    bool reflection = false;                       // serve grpc.reflection, which needs no token
    std::function<std::vector<RankView>()> ranks;  // called from any thread
    int64_t max_pending_bytes = 4 << 20;           // of one request
    absl::Duration unread_timeout = absl::Seconds(60);  // for what is left at a request's end
    absl::Duration drain_timeout;
    absl::Time started;
    uint32_t random_prefix = 0;  // of request ids
  };

  /// Listens and answers at once; health says NOT_SERVING until SetServingState(kServing).
  /// UNAVAILABLE when it cannot listen there.
  static absl::StatusOr<std::unique_ptr<RpcServer>> Start(Params params);

  /// Ends whatever is still going on.
  ~RpcServer();

  /// Where it listens, with the actual port.
  const std::string& address() const;
  /// The same of the admin address; empty when there is none of its own.
  const std::string& admin_address() const;

  /// What the health service answers for "" and both services.
  void SetServingState(ServingState state);

  /// What a drain waits for: requests in the step loop, or Generate calls whose clients still read,
  /// whichever are more.
  int32_t num_requests_left() const;

  StreamStats stream_stats() const;

  /// Stops listening, gives calls in progress until `grace` from now, then cancels them. Blocks
  /// until all are gone.
  void Shutdown(absl::Duration grace);

 private:
  struct Parts;  // holds everything that includes gRPC

  explicit RpcServer(std::unique_ptr<Parts> parts);

  const std::unique_ptr<Parts> parts_;
};

}  // namespace moed
