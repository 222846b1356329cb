#pragma once

#include <grpcpp/support/status.h>

#include <string>

namespace moed {

/// "INVALID_ARGUMENT: message", and one indented line for each field that the server's details
/// name. Safe to print on a terminal.
std::string FormatRpcError(const grpc::Status& status);

}  // namespace moed
