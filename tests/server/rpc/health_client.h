#pragma once

#include <grpcpp/channel.h>

#include <memory>
#include <string>

namespace moed {

enum class Health { kServing, kNotServing, kNotFound, kFailed };

/// What grpc.health.v1.Health/Check says about a service.
Health CheckHealth(const std::shared_ptr<grpc::Channel>& channel, const std::string& service);

}  // namespace moed
