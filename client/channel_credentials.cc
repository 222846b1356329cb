#include "client/channel_credentials.h"

#include "absl/status/status.h"
#include "config/base/status_macros.h"
#include "config/text_file.h"

namespace moed {

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> MakeChannelCredentials(
    const ConnectionFlags& flags) {
  if (flags.tls_cert.empty() != flags.tls_key.empty()) {
    return absl::InvalidArgumentError("--tls-cert and --tls-key go together");
  }
  if (flags.tls_ca.empty()) {
    if (flags.tls_cert.empty() && flags.tls_server_name.empty()) {
      return grpc::InsecureChannelCredentials();
    }
    return absl::InvalidArgumentError(
        "--tls-ca is missing: who has signed the server's certificate");
  }
  grpc::SslCredentialsOptions options;
  MOED_ASSIGN_OR_RETURN(options.pem_root_certs, ReadTextFile(flags.tls_ca));
  if (!flags.tls_cert.empty()) {
    MOED_ASSIGN_OR_RETURN(options.pem_cert_chain, ReadTextFile(flags.tls_cert));
    MOED_ASSIGN_OR_RETURN(options.pem_private_key, ReadTextFile(flags.tls_key));
  }
  return grpc::SslCredentials(options);
}

}  // namespace moed
