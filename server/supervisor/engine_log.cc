#include "server/supervisor/engine_log.h"

#include <string>

#include "absl/strings/strip.h"
#include "config/logging.h"

namespace moed {
namespace {

spdlog::level::level_enum ToSpdlog(EngineLogLine::Level level) {
  switch (level) {
    case EngineLogLine::Level::kDebug:
      return spdlog::level::debug;
    case EngineLogLine::Level::kInfo:
      return spdlog::level::info;
    case EngineLogLine::Level::kWarning:
      return spdlog::level::warn;
    case EngineLogLine::Level::kError:
      return spdlog::level::err;
  }
  return spdlog::level::warn;
}

}  // namespace

EngineLogLine ParseEngineLogLine(absl::string_view line) {
  using Level = EngineLogLine::Level;
  constexpr struct {
    const char* prefix;
    Level level;
  } kPrefixes[] = {{"level=trace ", Level::kDebug}, {"level=debug ", Level::kDebug},
                   {"level=info ", Level::kInfo},   {"level=warning ", Level::kWarning},
                   {"level=error ", Level::kError}, {"level=critical ", Level::kError}};
  for (const auto& [prefix, level] : kPrefixes) {
    if (absl::ConsumePrefix(&line, prefix)) return {.level = level, .text = line};
  }
  return {.level = Level::kWarning, .text = line};
}

void LogEngineLine(int32_t rank, absl::string_view line) {
  const EngineLogLine parsed = ParseEngineLogLine(line);
  spdlog::log(ToSpdlog(parsed.level), "rank={} {}", rank, std::string(parsed.text));
}

}  // namespace moed
