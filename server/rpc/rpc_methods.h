#pragma once

#include <string>
#include <vector>

namespace moed {

/// The full names ("moed.v1.InferenceService/Generate") of all methods that tokens can allow: those
/// of the services of proto/moed/v1. Health and reflection are not among them: they need no token.
std::vector<std::string> RpcMethodNames();

}  // namespace moed
