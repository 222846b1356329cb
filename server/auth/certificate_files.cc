#include "server/auth/certificate_files.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <memory>

#include "absl/strings/str_format.h"
#include "config/base/status_macros.h"
#include "config/text_file.h"

namespace moed {
namespace {

template <auto Free>
struct Deleter {
  template <typename T>
  void operator()(T* object) const {
    Free(object);
  }
};
using Bio = std::unique_ptr<BIO, Deleter<&::BIO_free_all>>;
using Certificate = std::unique_ptr<X509, Deleter<&::X509_free>>;
using Key = std::unique_ptr<EVP_PKEY, Deleter<&::EVP_PKEY_free>>;

Bio ToBio(const std::string& pem) {
  return Bio(::BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
}

// Never asks on the terminal.
int NoPassphrase(char*, int, int, void*) { return 0; }

absl::Status Bad(const std::string& path, absl::string_view what) {
  ::ERR_clear_error();
  return absl::InvalidArgumentError(absl::StrFormat("%s: %s", path, what));
}

absl::StatusOr<Certificate> FirstCertificate(const std::string& path, const std::string& pem) {
  const Bio bio = ToBio(pem);
  Certificate certificate(::PEM_read_bio_X509(bio.get(), nullptr, &NoPassphrase, nullptr));
  if (certificate == nullptr) return Bad(path, "expected a certificate in PEM form");
  // The others of the chain must parse as well: gRPC takes all or nothing.
  while (Certificate(::PEM_read_bio_X509(bio.get(), nullptr, &NoPassphrase, nullptr))) {
  }
  if (ERR_GET_REASON(::ERR_peek_last_error()) != PEM_R_NO_START_LINE) {
    return Bad(path, "a certificate after the first is broken");
  }
  ::ERR_clear_error();
  return certificate;
}

}  // namespace

absl::StatusOr<CertificateSet> LoadCertificates(const CertificatePaths& paths, absl::Time now) {
  CertificateSet set;
  MOED_ASSIGN_OR_RETURN(set.certificate, ReadTextFile(paths.certificate));
  MOED_ASSIGN_OR_RETURN(set.key, ReadTextFile(paths.key));
  MOED_ASSIGN_OR_RETURN(const Certificate certificate,
                        FirstCertificate(paths.certificate, set.certificate));
  const Key key(::PEM_read_bio_PrivateKey(ToBio(set.key).get(), nullptr, &NoPassphrase, nullptr));
  if (key == nullptr) {
    return Bad(paths.key, "expected a private key in PEM form, without a passphrase");
  }
  if (::X509_check_private_key(certificate.get(), key.get()) != 1) {
    return Bad(paths.key,
               absl::StrFormat("this is not the key of the certificate in %s", paths.certificate));
  }
  time_t seconds = absl::ToTimeT(now);
  if (::X509_cmp_time(::X509_get0_notAfter(certificate.get()), &seconds) <= 0) {
    return Bad(paths.certificate, "the certificate has expired");
  }
  if (paths.client_ca.empty()) return set;
  MOED_ASSIGN_OR_RETURN(set.client_ca, ReadTextFile(paths.client_ca));
  MOED_RETURN_IF_ERROR(FirstCertificate(paths.client_ca, set.client_ca).status());
  return set;
}

}  // namespace moed
