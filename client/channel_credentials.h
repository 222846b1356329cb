#pragma once

#include <grpcpp/security/credentials.h>

#include <memory>

#include "absl/status/statusor.h"
#include "client/command_line.h"

namespace moed {

/// TLS when a TLS flag is set, with a client certificate when one is named; else plaintext.
/// INVALID_ARGUMENT when flags do not go together, or what reading a file gave.
absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> MakeChannelCredentials(
    const ConnectionFlags& flags);

}  // namespace moed
