#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "config/base/dtype.h"

namespace moed {

/// The activation dtype that a `--dtype` value asks for: "bf16" or "f32". UNIMPLEMENTED for "int8"
/// and "int4", INVALID_ARGUMENT for anything else; both name what is supported.
absl::StatusOr<DType> ParseActivationDType(std::string_view text);

}  // namespace moed
