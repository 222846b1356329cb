#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace moed {

/// Where a server's certificate and what belongs to it are: paths of PEM files.
struct CertificatePaths {
  std::string certificate;  // the server's, followed by those that lead to its CA
  std::string key;          // its private key, without a passphrase
  std::string client_ca;  // who must have signed clients' certificates; empty = none are asked for
};

/// The contents of these files, which fit each other. A value.
struct CertificateSet {
  std::string certificate;
  std::string key;
  std::string client_ca;

  bool operator==(const CertificateSet&) const = default;
};

/// Reads and checks the files: every one parses, the key is the certificate's, and at `now` the
/// certificate has not expired. INVALID_ARGUMENT or what reading gave, naming the file.
absl::StatusOr<CertificateSet> LoadCertificates(const CertificatePaths& paths, absl::Time now);

}  // namespace moed
