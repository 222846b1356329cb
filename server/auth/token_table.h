#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "config/token_hash.h"

namespace moed {

/// What one tenant may use, all its tokens together; 0 = no limit of its own.
struct TenantLimits {
  double requests_per_second = 0;  // RPCs of any kind
  double tokens_per_minute = 0;    // prompt and generated tokens
  int32_t max_concurrent = 0;      // Generate calls at a time

  bool operator==(const TenantLimits&) const = default;
};

/// Who a token stands for and what it may call.
struct TokenGrant {
  std::string tenant;
  TenantLimits limits;
  std::vector<std::string> methods;  // full names, "moed.v1.InferenceService/Generate"; sorted

  bool Allows(absl::string_view full_method) const;
};

/// The tokens of a token file: a text of lines,
///
///   tenant NAME [requests_per_second=X] [tokens_per_minute=X] [max_concurrent=N]
///   token  NAME sha256:HEX [methods=M,M,...]
///
/// where NAME is a tenant, HEX the SHA-256 of a bearer token, and M one of `inference` (the
/// default: all of InferenceService), `admin` (all of AdminService), `all`, or the name of one
/// method. Empty lines and lines that begin with '#' are skipped. A tenant without a line has no
/// limits of its own.
///
/// A value, immutable after parsing.
class TokenTable {
 public:
  /// `methods` are the full names of all methods that there are. INVALID_ARGUMENT names `source`,
  /// the line and what is wrong with it.
  static absl::StatusOr<TokenTable> Parse(absl::string_view text, const std::string& source,
                                          std::span<const std::string> methods);

  /// The grant of a bearer token, or null. Looks at every entry, in a time that depends on the
  /// length of `token` and on the number of entries only.
  const TokenGrant* Find(absl::string_view token) const;

  size_t num_tokens() const { return entries_.size(); }

 private:
  friend class TokenTableParser;

  struct Entry {
    TokenHash hash;
    TokenGrant grant;
  };

  std::vector<Entry> entries_;
};

}  // namespace moed
