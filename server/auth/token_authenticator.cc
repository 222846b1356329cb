#include "server/auth/token_authenticator.h"

#include <cstdint>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "config/base/status_macros.h"
#include "config/text_file.h"

namespace moed {
namespace {

constexpr size_t kMaxTokenBytes = 4096;
constexpr absl::string_view kScheme = "Bearer ";

bool IsPrintable(absl::string_view token) {
  for (const unsigned char c : token) {
    if (c <= ' ' || c > '~') return false;
  }
  return true;
}

// 0 when equal. The loop's length is that of `presented`, which the caller knows anyway.
uint32_t Difference(absl::string_view presented, absl::string_view token) {
  uint32_t difference = presented.size() == token.size() ? 0 : 1;
  for (size_t i = 0; i < presented.size(); ++i) {
    const auto a = static_cast<unsigned char>(presented[i]);
    const auto b = static_cast<unsigned char>(token[i % token.size()]);
    difference |= static_cast<uint32_t>(a ^ b);
  }
  return difference;
}

}  // namespace

absl::StatusOr<TokenAuthenticator> TokenAuthenticator::Load(const std::string& path) {
  MOED_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path));
  std::vector<std::string> tokens;
  int line_number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++line_number;
    line = absl::StripAsciiWhitespace(line);
    if (line.empty() || line[0] == '#') continue;
    if (line.size() > kMaxTokenBytes || !IsPrintable(line)) {
      return absl::InvalidArgumentError(
          absl::StrFormat("token file %s, line %d: a token is 1 to %d printable ASCII characters "
                          "without spaces",
                          path, line_number, kMaxTokenBytes));
    }
    tokens.emplace_back(line);
  }
  if (tokens.empty()) {
    return absl::InvalidArgumentError(absl::StrFormat("token file %s holds no token", path));
  }
  return TokenAuthenticator(std::move(tokens));
}

absl::Status TokenAuthenticator::Check(absl::string_view authorization) const {
  if (authorization.empty()) {
    return absl::UnauthenticatedError("metadata 'authorization' is missing: expected Bearer TOKEN");
  }
  if (!absl::StartsWithIgnoreCase(authorization, kScheme)) {
    return absl::UnauthenticatedError("metadata 'authorization': expected Bearer TOKEN");
  }
  const absl::string_view presented = authorization.substr(kScheme.size());
  uint32_t num_equal = 0;
  for (const std::string& token : tokens_) {
    num_equal += static_cast<uint32_t>(Difference(presented, token) == 0);
  }
  if (num_equal > 0) return absl::OkStatus();
  return absl::UnauthenticatedError("the bearer token is not known here");
}

}  // namespace moed
