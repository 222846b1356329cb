#include "engine/rpc/engine_service.h"

#include <optional>

#include "absl/strings/str_cat.h"
#include "config/base/status_macros.h"
#include "engine/rpc/conversion.h"
#include "engine/rpc/grpc_status.h"

namespace moed {
namespace {

absl::Status StreamClosed() {
  return absl::CancelledError("the daemon closed the session while the engine was answering");
}

/// Sends load progress whenever another hundredth is done, so that many small tensors cost nothing.
class ProgressWriter {
 public:
  explicit ProgressWriter(EngineService::Stream& stream) : stream_(stream) {}

  void Report(int64_t done_bytes, int64_t total_bytes) {
    if (done_bytes < next_bytes_ && done_bytes < total_bytes) return;
    next_bytes_ = done_bytes + total_bytes / 100;
    engine::v1::EngineResponse response;
    response.mutable_progress()->set_done_bytes(done_bytes);
    response.mutable_progress()->set_total_bytes(total_bytes);
    stream_.Write(response);  // a closed stream is noticed by the poll of `cancelled`
  }

 private:
  EngineService::Stream& stream_;
  int64_t next_bytes_ = 0;
};

/// LoadHooks::share_group_name over the session's stream.
absl::StatusOr<std::string> ShareGroupName(const std::string& own_name,
                                           EngineService::Stream& stream) {
  if (!own_name.empty()) {
    engine::v1::EngineResponse response;
    response.mutable_group_name()->set_name(own_name);
    if (!stream.Write(response)) return StreamClosed();
    return own_name;
  }
  engine::v1::EngineRequest request;
  if (!stream.Read(&request)) return StreamClosed();
  if (request.has_group_name()) return request.group_name().name();
  return absl::InvalidArgumentError(
      "joining the group of ranks: the daemon sent another message than its name");
}

absl::Status RunStep(Engine& engine, const engine::v1::EngineRequest& request,
                     EngineService::Stream& stream) {
  if (!request.has_plan()) {
    return absl::InvalidArgumentError("running a step: the daemon sent a message without a plan");
  }
  MOED_ASSIGN_OR_RETURN(const StepResult result, engine.Execute(FromProto(request.plan())));
  engine::v1::EngineResponse response;
  *response.mutable_result() = ToProto(result);
  return stream.Write(response) ? absl::OkStatus() : StreamClosed();
}

}  // namespace

grpc::Status EngineService::Session(grpc::ServerContext* context, Stream* stream) {
  {
    absl::MutexLock lock(&mutex_);
    if (session_started_) {
      return {grpc::StatusCode::FAILED_PRECONDITION, "this engine has served its one session"};
    }
    session_started_ = true;
  }
  const absl::Status status = ServeSession(*context, *stream);
  on_session_end_(status);
  return ToGrpcStatus(status);
}

absl::Status EngineService::ServeSession(grpc::ServerContext& context, Stream& stream) {
  MOED_ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine, Configure(context, stream));
  engine::v1::EngineResponse response;
  *response.mutable_info() = ToProto(engine->info());
  if (!stream.Write(response)) return StreamClosed();
  engine::v1::EngineRequest request;
  while (stream.Read(&request)) {
    MOED_RETURN_IF_ERROR(RunStep(*engine, request, stream));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Engine>> EngineService::Configure(grpc::ServerContext& context,
                                                                 Stream& stream) {
  engine::v1::EngineRequest request;
  if (!stream.Read(&request) || !request.has_configure()) {
    return absl::InvalidArgumentError(
        "starting the session: its first message must be the engine's configuration");
  }
  MOED_ASSIGN_OR_RETURN(const EngineConfig config, FromProto(request.configure()));
  ProgressWriter writer(stream);
  const LoadHooks hooks{
      .progress = [&writer](int64_t done, int64_t total) { writer.Report(done, total); },
      .cancelled = [&context] { return context.IsCancelled(); },
      .share_group_name =
          [&stream](const std::string& own_name) { return ShareGroupName(own_name, stream); }};
  return factory_(config, hooks);
}

}  // namespace moed
