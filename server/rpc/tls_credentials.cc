#include "server/rpc/tls_credentials.h"

#include <grpc/grpc.h>
#include <grpc/grpc_security.h>

#include <atomic>
#include <string>

namespace moed {
namespace {

// gRPC asks for the certificates at every handshake, under a lock of its own, so that one call
// comes at a time. The C++ API has no name for this part of the C API.
class TlsCredentials final : public grpc::ServerCredentials {
 public:
  explicit TlsCredentials(const CertificateStore& store) : store_(store) {
    const auto request = store.paths().client_ca.empty()
                             ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
                             : GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY;
    credentials_ = ::grpc_ssl_server_credentials_create_with_options(
        ::grpc_ssl_server_credentials_create_options_using_config_fetcher(request, &Fetch, this));
  }
  ~TlsCredentials() override { ::grpc_server_credentials_release(credentials_); }

  // Calls are admitted by Admission.
  void SetAuthMetadataProcessor(const std::shared_ptr<grpc::AuthMetadataProcessor>&) override {}

 private:
  int AddPortToServer(const std::string& address, grpc_server* server) override {
    return ::grpc_server_add_http2_port(server, address.c_str(), credentials_);
  }

  static grpc_ssl_certificate_config_reload_status Fetch(
      void* self, grpc_ssl_server_certificate_config** config) {
    return static_cast<TlsCredentials*>(self)->FetchNew(config);
  }

  grpc_ssl_certificate_config_reload_status FetchNew(grpc_ssl_server_certificate_config** config) {
    const CertificateStore::Version version = store_.current();
    if (version.number == last_number_) return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
    const grpc_ssl_pem_key_cert_pair pair = {.private_key = version.set->key.c_str(),
                                             .cert_chain = version.set->certificate.c_str()};
    // gRPC 1.51 wants some root certificate even where it asks clients for none.
    const std::string& client_ca = version.set->client_ca;
    const std::string& roots = client_ca.empty() ? version.set->certificate : client_ca;
    *config = ::grpc_ssl_server_certificate_config_create(roots.c_str(), &pair, 1);
    last_number_ = version.number;
    return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
  }

  const CertificateStore& store_;
  grpc_server_credentials* credentials_ = nullptr;  // counted by gRPC; ours until the destructor
  std::atomic<uint64_t> last_number_ = 0;           // of the version handed out last
};

}  // namespace

std::shared_ptr<grpc::ServerCredentials> MakeTlsCredentials(const CertificateStore& store) {
  return std::make_shared<TlsCredentials>(store);
}

}  // namespace moed
