#include "tests/server/auth/test_certificates.h"

#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>

#include "config/base/check.h"

namespace moed {
namespace {

using Key = std::unique_ptr<EVP_PKEY, FreeKey>;
using Certificate = std::unique_ptr<X509, FreeX509>;

template <typename Write>
std::string ToPem(const Write& write) {
  BIO* bio = ::BIO_new(::BIO_s_mem());
  MOED_CHECK(write(bio) == 1);
  char* data = nullptr;
  const long num_bytes = ::BIO_get_mem_data(bio, &data);
  std::string pem(data, num_bytes);
  ::BIO_free(bio);
  return pem;
}

std::string ToPem(X509* certificate) {
  return ToPem([&](BIO* bio) { return ::PEM_write_bio_X509(bio, certificate); });
}

std::string ToPem(EVP_PKEY* key) {
  return ToPem([&](BIO* bio) {
    return ::PEM_write_bio_PrivateKey(bio, key, nullptr, nullptr, 0, nullptr, nullptr);
  });
}

void AddExtension(X509* certificate, int nid, const char* value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, certificate, certificate, nullptr, nullptr, 0);
  X509_EXTENSION* extension = ::X509V3_EXT_conf_nid(nullptr, &context, nid, value);
  MOED_CHECK(extension != nullptr);
  ::X509_add_ext(certificate, extension, -1);
  ::X509_EXTENSION_free(extension);
}

// A certificate of `key` that is not signed yet.
Certificate Blank(const std::string& name, EVP_PKEY* key, absl::Duration valid_for) {
  Certificate certificate(::X509_new());
  ::X509_set_version(certificate.get(), 2);
  uint32_t serial = 0;
  ::RAND_bytes(reinterpret_cast<unsigned char*>(&serial), sizeof(serial));
  ::ASN1_INTEGER_set_uint64(::X509_get_serialNumber(certificate.get()), serial + 1);
  ::X509_gmtime_adj(X509_getm_notBefore(certificate.get()), -86400);
  ::X509_gmtime_adj(X509_getm_notAfter(certificate.get()), absl::ToInt64Seconds(valid_for));
  ::X509_NAME_add_entry_by_txt(::X509_get_subject_name(certificate.get()), "CN", MBSTRING_ASC,
                               reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0);
  ::X509_set_pubkey(certificate.get(), key);
  return certificate;
}

}  // namespace

TestCa::TestCa(const std::string& name) : key_(EVP_EC_gen("P-256")) {
  certificate_ = Blank(name, key_.get(), absl::Hours(24));
  ::X509_set_issuer_name(certificate_.get(), ::X509_get_subject_name(certificate_.get()));
  AddExtension(certificate_.get(), NID_basic_constraints, "critical,CA:TRUE");
  AddExtension(certificate_.get(), NID_key_usage, "critical,keyCertSign,cRLSign");
  MOED_CHECK(::X509_sign(certificate_.get(), key_.get(), ::EVP_sha256()) > 0);
  pem_ = ToPem(certificate_.get());
}

PemPair TestCa::Issue(const std::string& name, absl::Duration valid_for) const {
  const Key key(EVP_EC_gen("P-256"));
  const Certificate certificate = Blank(name, key.get(), valid_for);
  ::X509_set_issuer_name(certificate.get(), ::X509_get_subject_name(certificate_.get()));
  AddExtension(certificate.get(), NID_subject_alt_name, "DNS:localhost,IP:127.0.0.1");
  MOED_CHECK(::X509_sign(certificate.get(), key_.get(), ::EVP_sha256()) > 0);
  return {.certificate = ToPem(certificate.get()), .key = ToPem(key.get())};
}

}  // namespace moed
