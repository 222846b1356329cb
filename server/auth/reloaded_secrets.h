#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/auth/certificate_store.h"
#include "server/auth/file_watcher.h"
#include "server/auth/token_authenticator.h"

namespace moed {

/// The tokens and certificates of the front, read again whenever their files change. A file that is
/// broken changes nothing and is logged as an error.
///
/// Owned by the daemon. Reads on its watchers' threads; any thread may use what it gives.
class ReloadedSecrets {
 public:
  struct Params {
    std::string token_file;            // empty = no tokens
    std::vector<std::string> methods;  // full names of all that tokens can allow
    CertificatePaths certificates;     // without `certificate` = no TLS
    absl::Duration interval = absl::Seconds(1);
  };

  /// Reads everything; a broken file is an error now.
  static absl::StatusOr<std::unique_ptr<ReloadedSecrets>> Load(const Params& params);

  /// Null without a token file.
  const TokenAuthenticator* authenticator() const { return authenticator_.get(); }
  /// Null without a certificate.
  const CertificateStore* certificates() const { return certificates_.get(); }

 private:
  ReloadedSecrets() = default;

  std::unique_ptr<TokenAuthenticator> authenticator_;
  std::unique_ptr<CertificateStore> certificates_;
  std::vector<std::unique_ptr<FileWatcher>> watchers_;  // last: they use the others
};

}  // namespace moed
