#pragma once

#include <span>
#include <string>
#include <vector>

#include "client/text_table.h"
#include "client/top/top_rates.h"

namespace moed {

enum class Colors : uint8_t { kNone, k256 };

/// What the lines are drawn on.
struct TopScreen {
  int columns = 80;
  int rows = 0;  // 0 = as many as it takes
  Charset charset = Charset::kAscii;
  Colors colors = Colors::kNone;
};

/// What one picture shows.
struct TopFrame {
  std::string server;  // its address
  const v1::GetStatusResponse& status;
  TopRates rates;
  std::span<const double> history;  // generated tokens/s, the latest last
  std::string error;                // why the rest is old; "" when it is not
};

/// The lines of a picture, none wider than the screen nor, together, higher. Safe for a terminal.
/// Pure.
std::vector<std::string> DrawTop(const TopFrame& frame, const TopScreen& screen);

}  // namespace moed
