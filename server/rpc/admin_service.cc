#include "server/rpc/admin_service.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_format.h"
#include "config/logging.h"
#include "server/rpc/admin_conversion.h"
#include "server/rpc/drain_reactor.h"
#include "server/rpc/status_conversion.h"

namespace moed {
namespace {

constexpr absl::string_view kService = "moed.v1.AdminService";
constexpr double kMaxDrainSeconds = 86400;

absl::Status ValidateDrain(const v1::DrainRequest& request) {
  const double seconds = request.timeout_seconds();
  if (std::isfinite(seconds) && seconds >= 0 && seconds <= kMaxDrainSeconds) {
    return absl::OkStatus();
  }
  return BadRequestError({{"timeout_seconds", absl::StrFormat("is %g; expected a number in [0, %g]",
                                                              seconds, kMaxDrainSeconds)}});
}

}  // namespace

grpc::ServerUnaryReactor* AdminService::GetStatus(grpc::CallbackServerContext* context,
                                                  const v1::GetStatusRequest*,
                                                  v1::GetStatusResponse* response) {
  return params_.admission.RunUnary(*context, {kService, "GetStatus"}, [&] {
    *response = ToStatusResponse(params_.model, params_.loop.stats(), params_.ranks(),
                                 absl::Now() - params_.started);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* AdminService::GetExperts(grpc::CallbackServerContext* context,
                                                   const v1::GetExpertsRequest* request,
                                                   v1::GetExpertsResponse* response) {
  return params_.admission.RunUnary(*context, {kService, "GetExperts"}, [&] {
    *response = ToExpertsResponse(params_.model, params_.loop.stats(), params_.placement);
    if (request->reset()) params_.loop.ResetExpertStats();
    return absl::OkStatus();
  });
}

grpc::ServerWriteReactor<v1::DrainResponse>* AdminService::Drain(
    grpc::CallbackServerContext* context, const v1::DrainRequest* request) {
  const absl::Time arrival = absl::Now();
  const RpcMethod method = {kService, "Drain"};
  absl::Status status = params_.admission.Admit(*context, method).status();
  if (status.ok()) status = ValidateDrain(*request);
  params_.admission.CountHandled(method, status.code(), arrival);
  if (!status.ok()) return new RefusedDrain(ToGrpcStatus(status, *context));
  SPDLOG_INFO("event=drain_requested peer=\"{}\"", context->peer());
  params_.on_drain();
  const absl::Duration timeout = request->timeout_seconds() > 0
                                     ? absl::Seconds(request->timeout_seconds())
                                     : params_.drain_timeout;
  return new DrainReactor(params_.num_requests_left, arrival + timeout);
}

}  // namespace moed
