#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace moed {

/// Decides whether a caller's bearer token is one of those of a file.
///
/// Owned by the daemon; immutable after loading, so any thread may call it.
class TokenAuthenticator {
 public:
  /// Reads a file with one token a line; empty lines and lines that begin with '#' are skipped.
  /// INVALID_ARGUMENT for a file without tokens or a token that no header could carry.
  static absl::StatusOr<TokenAuthenticator> Load(const std::string& path);

  /// `authorization` is the header's value, "Bearer TOKEN"; empty when the caller sent none.
  /// UNAUTHENTICATED says what is wrong, but nothing about the tokens. Takes a time that depends on
  /// the length of what the caller sent and on nothing else.
  absl::Status Check(absl::string_view authorization) const;

 private:
  explicit TokenAuthenticator(std::vector<std::string> tokens) : tokens_(std::move(tokens)) {}

  std::vector<std::string> tokens_;
};

}  // namespace moed
