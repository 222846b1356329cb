#include "client/input_text.h"

#include <utf8proc.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "config/base/status_macros.h"

namespace moed {
namespace {

absl::StatusOr<std::string> ReadAll(std::istream& in, const std::string& name) {
  std::string text;
  char buffer[1 << 16];
  while (in.read(buffer, sizeof(buffer)) || in.gcount() > 0) {
    text.append(buffer, static_cast<size_t>(in.gcount()));
    if (text.size() > kMaxInputBytes) {
      return absl::InvalidArgumentError(
          absl::StrCat("reading ", name, ": it has more than ", kMaxInputBytes, " bytes"));
    }
  }
  if (in.bad()) return absl::UnavailableError(absl::StrCat("reading ", name, " failed"));
  return text;
}

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return absl::NotFoundError(absl::StrCat("reading ", path, ": ", std::strerror(errno)));
  return ReadAll(in, path);
}

absl::Status CheckUtf8(const std::string& text) {
  const auto* data = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
  for (size_t at = 0; at < text.size();) {
    utf8proc_int32_t code_point = 0;
    const utf8proc_ssize_t num_bytes =
        utf8proc_iterate(data + at, static_cast<utf8proc_ssize_t>(text.size() - at), &code_point);
    if (num_bytes <= 0) {
      return absl::InvalidArgumentError(absl::StrCat("the text is not UTF-8 at byte ", at));
    }
    at += static_cast<size_t>(num_bytes);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> ReadInputText(const TextFlags& flags, std::istream& standard_input) {
  absl::StatusOr<std::string> text = flags.text.value_or("");
  if (flags.text == "-" || flags.file == "-") {
    text = ReadAll(standard_input, "standard input");
  } else if (!flags.file.empty()) {
    text = ReadFile(flags.file);
  }
  if (text.ok()) MOED_RETURN_IF_ERROR(CheckUtf8(*text));
  return text;
}

absl::StatusOr<std::string> ReadToken(const std::string& path) {
  MOED_ASSIGN_OR_RETURN(std::string token, ReadFile(path));
  absl::StripAsciiWhitespace(&token);
  const auto is_visible = [](unsigned char c) { return c > 0x20 && c < 0x7f; };
  if (token.empty() || !std::all_of(token.begin(), token.end(), is_visible)) {
    return absl::InvalidArgumentError(
        absl::StrCat("reading a token from ", path, ": expected one word of visible ASCII"));
  }
  return token;
}

}  // namespace moed
