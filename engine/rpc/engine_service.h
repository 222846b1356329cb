#pragma once

#include <functional>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "engine/rpc/engine_config.h"
#include "moed/engine/v1/engine.grpc.pb.h"

namespace moed {

/// The engine's end of the wire: serves one session, in which it makes the engine and runs its
/// steps.
///
/// Owned by the engine server. gRPC calls Session from one of its threads; the engine is made, used
/// and destroyed on that thread only.
class EngineService final : public engine::v1::EngineService::Service {
 public:
  using Stream = grpc::ServerReaderWriter<engine::v1::EngineResponse, engine::v1::EngineRequest>;

  /// `on_session_end` is called once, from the session's thread, with how the session ended: OK
  /// when the daemon closed it.
  EngineService(EngineFactory factory, std::function<void(absl::Status)> on_session_end)
      : factory_(std::move(factory)), on_session_end_(std::move(on_session_end)) {}

  grpc::Status Session(grpc::ServerContext* context, Stream* stream) override;

 private:
  absl::Status ServeSession(grpc::ServerContext& context, Stream& stream);
  absl::StatusOr<std::unique_ptr<Engine>> Configure(grpc::ServerContext& context, Stream& stream);

  const EngineFactory factory_;
  const std::function<void(absl::Status)> on_session_end_;
  absl::Mutex mutex_;
  bool session_started_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace moed
