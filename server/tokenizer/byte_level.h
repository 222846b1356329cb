#pragma once

#include <string>
#include <string_view>

/// The byte alphabet of GPT-2: every byte is spelled as one printable character, so that any text
/// can be written with tokens that are valid UTF-8. Pure functions.
namespace moed::byte_level {

/// The split pattern that ByteLevel applies when its use_regex is true.
inline constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

/// Appends the spelling of each byte of `bytes` to `out`.
void AppendSpelled(std::string_view bytes, std::string& out);

/// Appends the bytes that `token` spells to `out`; a token with any character outside the
/// alphabet stands for itself.
void AppendBytes(std::string_view token, std::string& out);

}  // namespace moed::byte_level
