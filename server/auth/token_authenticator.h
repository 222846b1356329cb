#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "server/auth/token_table.h"

namespace moed {

/// Decides by a caller's bearer token who it is and whether it may call a method.
///
/// Owned by the daemon; any thread may call it. Reload may come at any time: a call sees either the
/// old tokens or the new ones.
class TokenAuthenticator {
 public:
  /// Reads a token file (see TokenTable). `methods` are the full names of all methods there are.
  static absl::StatusOr<std::unique_ptr<TokenAuthenticator>> Load(const std::string& path,
                                                                  std::vector<std::string> methods);

  /// Reads the file again. An error leaves the tokens as they were.
  absl::Status Reload();

  /// `authorization` is the header's value, "Bearer TOKEN"; empty when the caller sent none.
  /// UNAUTHENTICATED says what is wrong, but nothing about the tokens; PERMISSION_DENIED when the
  /// token does not allow `full_method`.
  absl::StatusOr<TokenGrant> Authenticate(absl::string_view authorization,
                                          absl::string_view full_method) const;

  size_t num_tokens() const { return table()->num_tokens(); }
  const std::string& path() const { return path_; }

 private:
  TokenAuthenticator(std::string path, std::vector<std::string> methods)
      : path_(std::move(path)), methods_(std::move(methods)) {}

  std::shared_ptr<const TokenTable> table() const {
    absl::MutexLock lock(&mutex_);
    return table_;
  }

  const std::string path_;
  const std::vector<std::string> methods_;
  mutable absl::Mutex mutex_;
  // Shared with calls that still look at it while a new one takes its place.
  std::shared_ptr<const TokenTable> table_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace moed
