#include "client/connection_flags.h"

#include <CLI/CLI.hpp>

namespace moed {

void AddConnectionFlags(CLI::App& app, ConnectionFlags& flags) {
  app.add_option("--server", flags.server, "host:port or unix:PATH")->capture_default_str();
  app.add_option("--timeout", flags.timeout_s, "Seconds for the whole call; 0 = none")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--token-file", flags.token_file, "A file with the bearer token");
}

}  // namespace moed
