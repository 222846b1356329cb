#include "client/make_token.h"

#include <fcntl.h>
#include <openssl/rand.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "client/input_text.h"
#include "config/base/status_macros.h"
#include "config/base/unique_fd.h"
#include "config/token_hash.h"

namespace moed {
namespace {

constexpr size_t kSecretBytes = 32;

absl::StatusOr<std::string> NewToken() {
  std::array<unsigned char, kSecretBytes> bytes;
  if (::RAND_bytes(bytes.data(), bytes.size()) != 1) {
    return absl::InternalError("the system gave no random bytes");
  }
  std::string token;
  absl::WebSafeBase64Escape({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, &token);
  return token;
}

absl::Status WriteSecret(const std::string& path, const std::string& token) {
  const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!fd.valid()) return absl::ErrnoToStatus(errno, absl::StrCat("cannot create '", path, "'"));
  const std::string line = token + "\n";
  if (::write(fd.get(), line.data(), line.size()) == static_cast<ssize_t>(line.size())) {
    return absl::OkStatus();
  }
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot write '", path, "'"));
}

absl::StatusOr<std::string> Token(const TokenFlags& flags) {
  if (!flags.from_file.empty()) return ReadToken(flags.from_file);
  MOED_ASSIGN_OR_RETURN(std::string token, NewToken());
  MOED_RETURN_IF_ERROR(WriteSecret(flags.secret_file, token));
  return token;
}

}  // namespace

absl::StatusOr<std::string> MakeTokenLine(const TokenFlags& flags) {
  if (flags.from_file.empty() == flags.secret_file.empty()) {
    return absl::InvalidArgumentError(
        "expected --secret-file, where the new token goes, or --from-file with a token that "
        "exists");
  }
  MOED_ASSIGN_OR_RETURN(const std::string token, Token(flags));
  return absl::StrCat("token ", flags.tenant, " sha256:", ToHex(HashToken(token)),
                      " methods=", flags.methods, "\n");
}

}  // namespace moed
