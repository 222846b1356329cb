#pragma once

#include <grpcpp/support/status.h>

#include <string>

#include "absl/status/status.h"

namespace moed {

/// Longest error message that travels: it goes percent-encoded (up to three bytes for one) into
/// HTTP/2 trailers, which may take 8 KiB in all.
inline constexpr size_t kMaxStatusMessageBytes = 2400;

/// The two status types use the same numbers for their codes.
inline grpc::Status ToGrpcStatus(const absl::Status& status) {
  std::string message(status.message().substr(0, kMaxStatusMessageBytes));
  return {static_cast<grpc::StatusCode>(status.raw_code()), message};
}

inline absl::Status FromGrpcStatus(const grpc::Status& status) {
  return {static_cast<absl::StatusCode>(status.error_code()), status.error_message()};
}

}  // namespace moed
