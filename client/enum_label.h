#pragma once

#include <string>

#include "moed/v1/admin.pb.h"
#include "moed/v1/inference.pb.h"

namespace moed {

/// "serving", "draining", ...: the names of the protocol without their prefix.
std::string Label(v1::ServingState state);

/// "stop", "length".
std::string Label(v1::FinishReason reason);

}  // namespace moed
