#pragma once

#include <cstdint>

#include "absl/strings/string_view.h"

namespace moed {

/// A line of an engine's log. The engine starts it with "level=X "; what does not start so (a
/// crash, a library's own words) is a warning.
struct EngineLogLine {
  enum class Level : uint8_t { kDebug, kInfo, kWarning, kError };

  Level level = Level::kWarning;
  absl::string_view text;  // the rest of the line
};

EngineLogLine ParseEngineLogLine(absl::string_view line);

/// Logs a line of rank's output at the level it asks for.
void LogEngineLine(int32_t rank, absl::string_view line);

}  // namespace moed
