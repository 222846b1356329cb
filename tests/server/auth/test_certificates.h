#pragma once

#include <openssl/evp.h>
#include <openssl/x509.h>

#include <memory>
#include <string>

#include "absl/time/time.h"

namespace moed {

struct FreeX509 {
  void operator()(X509* certificate) const { ::X509_free(certificate); }
};
struct FreeKey {
  void operator()(EVP_PKEY* key) const { ::EVP_PKEY_free(key); }
};

/// A certificate and its key in PEM form.
struct PemPair {
  std::string certificate;
  std::string key;
};

/// A certificate authority for tests, made anew each time.
class TestCa {
 public:
  explicit TestCa(const std::string& name);

  const std::string& certificate_pem() const { return pem_; }

  /// A certificate for localhost and 127.0.0.1 with `name` as its subject, for a server or client.
  PemPair Issue(const std::string& name, absl::Duration valid_for = absl::Hours(1)) const;

 private:
  std::unique_ptr<EVP_PKEY, FreeKey> key_;
  std::unique_ptr<X509, FreeX509> certificate_;
  std::string pem_;
};

}  // namespace moed
