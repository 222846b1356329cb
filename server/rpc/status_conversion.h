#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/status.h>

#include "absl/status/status.h"
#include "server/rpc/field_violation.h"

namespace moed {

/// INVALID_ARGUMENT with a google.rpc.BadRequest of all violations (the first few when there are
/// many: trailers are small). `violations` is not empty.
absl::Status BadRequestError(const FieldViolations& violations);

/// The status for the wire. Payloads of `status` become google.rpc details. RESOURCE_EXHAUSTED and
/// UNAVAILABLE mean "try again": they get a google.rpc.RetryInfo, and `context` the trailing
/// metadata grpc-retry-pushback-ms of the same time. Call right before Finish, once.
grpc::Status ToGrpcStatus(const absl::Status& status, grpc::ServerContextBase& context);

}  // namespace moed
