#include "server/tokenizer/byte_level.h"

#include <array>
#include <cstdint>

#include "server/tokenizer/unicode.h"

namespace moed::byte_level {
namespace {

constexpr int kNotInAlphabet = -1;
/// 256 bytes, of which 68 are moved to U+0100 and up.
constexpr size_t kAlphabetEnd = 256 + 68;

constexpr bool StandsForItself(int byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

constexpr std::array<char16_t, 256> MakeCharacters() {
  std::array<char16_t, 256> characters{};
  char16_t next_moved = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    characters[byte] = StandsForItself(byte) ? static_cast<char16_t>(byte) : next_moved++;
  }
  return characters;
}

constexpr std::array<char16_t, 256> kCharacters = MakeCharacters();

constexpr std::array<int16_t, kAlphabetEnd> MakeBytes() {
  std::array<int16_t, kAlphabetEnd> bytes{};
  for (int16_t& byte : bytes) byte = kNotInAlphabet;
  for (int byte = 0; byte < 256; ++byte) bytes[kCharacters[byte]] = static_cast<int16_t>(byte);
  return bytes;
}

constexpr std::array<int16_t, kAlphabetEnd> kBytes = MakeBytes();

}  // namespace

void AppendSpelled(std::string_view bytes, std::string& out) {
  for (const char byte : bytes) {
    const char16_t c = kCharacters[static_cast<uint8_t>(byte)];
    if (c < 0x80) {
      out.push_back(static_cast<char>(c));
    } else {
      out.push_back(static_cast<char>(0xC0 | (c >> 6)));
      out.push_back(static_cast<char>(0x80 | (c & 0x3F)));
    }
  }
}

void AppendBytes(std::string_view token, std::string& out) {
  const size_t size_before = out.size();
  for (size_t pos = 0; pos < token.size();) {
    const char32_t c = unicode::NextCodePoint(token, pos);
    const int byte = c < kAlphabetEnd ? kBytes[c] : kNotInAlphabet;
    if (byte == kNotInAlphabet) {
      out.resize(size_before);
      out += token;
      return;
    }
    out.push_back(static_cast<char>(byte));
  }
}

}  // namespace moed::byte_level
