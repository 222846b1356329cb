#include "client/connection_flags.h"

#include <CLI/CLI.hpp>

namespace moed {

void AddConnectionFlags(CLI::App& app, ConnectionFlags& flags) {
  app.add_option("--server", flags.server, "host:port or unix:PATH")
      ->envname("MOED_SERVER")
      ->capture_default_str();
  app.add_option("--timeout", flags.timeout_s, "Seconds for the whole call; 0 = none")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--token-file", flags.token_file, "A file with the bearer token")
      ->envname("MOED_TOKEN_FILE");
  app.add_option("--tls-ca", flags.tls_ca,
                 "Speak TLS: a PEM file with whoever signed the server's certificate")
      ->envname("MOED_TLS_CA");
  app.add_option("--tls-cert", flags.tls_cert, "The client's own certificate, for mutual TLS")
      ->envname("MOED_TLS_CERT");
  app.add_option("--tls-key", flags.tls_key, "Its private key")->envname("MOED_TLS_KEY");
  app.add_option("--tls-server-name", flags.tls_server_name,
                 "The name in the server's certificate, where it is not the host's")
      ->envname("MOED_TLS_SERVER_NAME");
}

}  // namespace moed
