#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace moed {

/// The SHA-256 of a bearer token: what a token file holds in the token's place.
using TokenHash = std::array<uint8_t, 32>;

TokenHash HashToken(absl::string_view token);

/// 64 hexadecimal digits, in lower case.
std::string ToHex(const TokenHash& hash);

/// The hash that 64 hexadecimal digits stand for; nothing for any other text.
std::optional<TokenHash> ParseTokenHash(absl::string_view hex);

/// Whether two hashes are equal, in a time that does not depend on where they differ.
bool EqualInConstantTime(const TokenHash& a, const TokenHash& b);

}  // namespace moed
