#include "server/auth/token_authenticator.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "config/base/status_macros.h"
#include "config/text_file.h"

namespace moed {
namespace {

constexpr absl::string_view kScheme = "Bearer ";

}  // namespace

absl::StatusOr<std::unique_ptr<TokenAuthenticator>> TokenAuthenticator::Load(
    const std::string& path, std::vector<std::string> methods) {
  std::unique_ptr<TokenAuthenticator> authenticator(
      new TokenAuthenticator(path, std::move(methods)));
  MOED_RETURN_IF_ERROR(authenticator->Reload());
  return authenticator;
}

absl::Status TokenAuthenticator::Reload() {
  MOED_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path_));
  MOED_ASSIGN_OR_RETURN(TokenTable table, TokenTable::Parse(text, path_, methods_));
  auto shared = std::make_shared<const TokenTable>(std::move(table));
  absl::MutexLock lock(&mutex_);
  table_.swap(shared);
  return absl::OkStatus();
}

absl::StatusOr<TokenGrant> TokenAuthenticator::Authenticate(absl::string_view authorization,
                                                            absl::string_view full_method) const {
  if (authorization.empty()) {
    return absl::UnauthenticatedError("metadata 'authorization' is missing: expected Bearer TOKEN");
  }
  if (!absl::StartsWithIgnoreCase(authorization, kScheme)) {
    return absl::UnauthenticatedError("metadata 'authorization': expected Bearer TOKEN");
  }
  const std::shared_ptr<const TokenTable> tokens = table();
  const TokenGrant* grant = tokens->Find(authorization.substr(kScheme.size()));
  if (grant == nullptr) return absl::UnauthenticatedError("the bearer token is not known here");
  if (grant->Allows(full_method)) return *grant;
  return absl::PermissionDeniedError(
      absl::StrCat("the bearer token of tenant ", grant->tenant, " does not allow ", full_method));
}

}  // namespace moed
