#pragma once

#include <grpcpp/security/server_credentials.h>

#include <memory>

#include "server/auth/certificate_store.h"

namespace moed {

/// TLS for one listening port, with what `store` holds whenever a connection comes: connections
/// that are up keep what they began with. Clients need a certificate if the store has a client CA.
/// The store and what is returned must outlive the server.
///
/// gRPC 1.51's own file watcher is not used, because it takes new files unchecked: a certificate
/// without its key would end TLS until somebody repairs it.
std::shared_ptr<grpc::ServerCredentials> MakeTlsCredentials(const CertificateStore& store);

}  // namespace moed
