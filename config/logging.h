#pragma once

// SPDLOG_INFO and friends must name their level before spdlog.h is seen.
#define SPDLOG_ACTIVE_LEVEL SPDLOG_LEVEL_TRACE
#include <spdlog/spdlog.h>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace moed {

/// Sends the log of this process to stderr, one line per event:
///
///   time=2024-05-01T12:00:00.123Z level=info name=engine.1 thread=4711 source=file.cc:12
///   message...
///
/// Call once, first thing in main(). Write messages as `key=value` pairs too:
/// `SPDLOG_INFO("event=weights_loaded bytes={}", bytes)`. `level` is trace, debug, info, warn,
/// error or off; anything else is INVALID_ARGUMENT. `name` says which process it is.
absl::Status InitLogging(absl::string_view level, absl::string_view name);

}  // namespace moed
