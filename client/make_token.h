#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "client/command_line.h"

namespace moed {

/// Makes a random bearer token, or takes the one of flags.from_file, and returns the line for the
/// server's token file: "token TENANT sha256:HEX methods=M". A new token is written to
/// flags.secret_file, which must not exist and only its owner can read; nothing else shows it.
absl::StatusOr<std::string> MakeTokenLine(const TokenFlags& flags);

}  // namespace moed
