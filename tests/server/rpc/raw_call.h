#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/security/credentials.h>

#include <memory>
#include <string>

#include "absl/time/time.h"

namespace moed {

/// A new connection, not shared with any other channel of this process.
std::shared_ptr<grpc::Channel> NewChannel(
    const std::string& address, const std::shared_ptr<grpc::ChannelCredentials>& credentials);

/// Calls any method, "package.Service/Method", with an empty message and, unless it is "", a bearer
/// token. OK as soon as a message comes back, else how the call ended; DEADLINE_EXCEEDED after ten
/// seconds.
grpc::Status RawCall(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
                     const std::string& token);

}  // namespace moed
