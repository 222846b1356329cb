#pragma once

#include "client/command_line.h"

namespace CLI {
class App;
}  // namespace CLI

namespace moed {

/// Adds the flags that say how to reach a server (--server, --timeout, --token-file, ...) to `app`;
/// `flags` must outlive its parsing.
void AddConnectionFlags(CLI::App& app, ConnectionFlags& flags);

}  // namespace moed
