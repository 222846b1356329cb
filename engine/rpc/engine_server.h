#pragma once

#include <string>

#include "absl/status/status.h"
#include "engine/rpc/engine_config.h"

namespace moed {

struct EngineServerOptions {
  std::string listen;  // "unix:PATH"
  int parent_fd =
      -1;  // read end of a pipe held by the daemon; its end ends this process. -1 = none
};

/// The life of an engine process: listens, serves one session and returns how it ended; OK when the
/// daemon closed it or SIGTERM came. When the daemon is gone the process ends at once, whatever it
/// was doing.
///
/// Call it from the main thread before any other thread exists: it blocks SIGTERM and ignores
/// SIGINT for the whole process (a terminal's Ctrl-C goes to every process; the daemon decides what
/// it means).
absl::Status RunEngineServer(const EngineServerOptions& options, EngineFactory factory);

}  // namespace moed
