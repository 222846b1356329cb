#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "client/command_line.h"
#include "moed/v1/inference.pb.h"

namespace moed {

/// The request that the flags ask for; `text` is the prompt unless the flags give token ids. Values
/// are for the server to judge; INVALID_ARGUMENT only for a --logit-bias that is not ID=BIAS.
absl::StatusOr<v1::GenerateRequest> MakeGenerateRequest(const GenerateFlags& flags,
                                                        const std::string& text);

}  // namespace moed
