#include "client/top/top_view.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "client/enum_label.h"
#include "client/top/heat_map.h"

namespace moed {
namespace {

using Align = TextTable::Align;

constexpr int kSmallBar = 12;

std::string Bold(const std::string& text, const TopScreen& screen) {
  return screen.colors == Colors::kNone ? text : absl::StrCat("\x1b[1m", text, "\x1b[0m");
}

std::string Red(const std::string& text, const TopScreen& screen) {
  return screen.colors == Colors::kNone ? text : absl::StrCat("\x1b[1;31m", text, "\x1b[0m");
}

// "0", "9.5", "950", "12.3k", "4.56M".
std::string FormatCount(double value) {
  if (value == 0) return "0";
  if (value < 10) return absl::StrFormat("%.1f", value);
  if (value < 1000) return absl::StrFormat("%.0f", value);
  if (value < 1e6) return absl::StrFormat("%.1fk", value / 1e3);
  return absl::StrFormat("%.2fM", value / 1e6);
}

std::string Percent(double ratio) { return absl::StrFormat("%.0f%%", 100 * ratio); }

// A bar with the rest of its width blank or dotted, so that columns behind it stay in place.
std::string Gauge(double ratio, int width, Charset charset) {
  const std::string bar = Bar(ratio, width, charset);
  const int rest = std::max(width - DisplayWidth(bar), 0);
  std::string out = bar;
  for (int i = 0; i < rest; ++i) out += charset == Charset::kUtf8 ? "·" : ".";
  return out;
}

// The last `width` values as small columns, the highest at full height.
std::string Sparkline(std::span<const double> values, size_t width, Charset charset) {
  static constexpr const char* kUtf8[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  static constexpr const char* kAscii[] = {"_", ".", ",", "-", "=", "+", "*", "#"};
  if (values.size() > width) values = values.last(width);
  const double most = values.empty() ? 0 : *std::ranges::max_element(values);
  std::string out;
  for (const double value : values) {
    const auto level = most > 0 ? std::lround(7 * value / most) : 0;
    out += charset == Charset::kUtf8 ? kUtf8[level] : kAscii[level];
  }
  return out;
}

std::string Headline(const TopFrame& frame, const TopScreen& screen) {
  const v1::GetStatusResponse& status = frame.status;
  return absl::StrFormat("%s  %s  up %s  version %s  at %s",
                         Bold(ForTerminal(ToValidUtf8(status.model())), screen),
                         Label(status.state()), FormatSeconds(status.uptime_seconds()),
                         ForTerminal(ToValidUtf8(status.version())), ForTerminal(frame.server));
}

double KvUsage(const v1::GetStatusResponse& status) {
  double used = 0;
  double all = 0;
  for (const v1::RankStatus& rank : status.ranks()) {
    used += rank.num_blocks() - rank.num_free_blocks();
    all += rank.num_blocks();
  }
  return all > 0 ? used / all : 0;
}

std::vector<std::string> LoadLines(const TopFrame& frame, const TopScreen& screen) {
  const v1::GetStatusResponse& status = frame.status;
  const TopRates& rates = frame.rates;
  const size_t spark_width = static_cast<size_t>(std::clamp(screen.columns - 58, 8, 60));
  return {
      absl::StrFormat("requests  %d running, %d waiting, %s/s finished, %d preemptions",
                      status.num_running_sequences(), status.num_waiting_sequences(),
                      FormatCount(rates.finished_requests), status.num_preemptions()),
      absl::StrFormat("tokens/s  %s generated, %s of prompts  %s",
                      Bold(FormatCount(rates.generated_tokens), screen),
                      FormatCount(rates.prompt_tokens),
                      Sparkline(frame.history, spark_width, screen.charset)),
      absl::StrFormat("KV cache  %s %s used, %s of prompts found in the prefix cache",
                      Gauge(KvUsage(status), kSmallBar, screen.charset), Percent(KvUsage(status)),
                      Percent(rates.cache_hit_ratio)),
      absl::StrFormat("steps     %s/s of %s, planning %s; exchange %s/s", FormatCount(rates.steps),
                      FormatSeconds(rates.step_seconds), FormatSeconds(rates.plan_seconds),
                      FormatBytes(static_cast<int64_t>(rates.exchange_bytes)))};
}

std::string StageLine(const TopRates& rates) {
  std::string out = "spent on ";
  for (const auto& [name, ratio] : rates.stages)
    absl::StrAppend(&out, " ", name, " ", Percent(ratio));
  return out;
}

std::vector<std::string> RankLines(const TopFrame& frame, const TopScreen& screen) {
  double most = 0;
  for (const RankRates& rank : frame.rates.ranks) most = std::max(most, rank.rows);
  TextTable table({{"rank"},
                   {"state", Align::kLeft},
                   {"running"},
                   {"KV"},
                   {"busy"},
                   {"waiting"},
                   {"rows/s"},
                   {"share of the busiest", Align::kLeft}});
  for (int r = 0; r < frame.status.ranks_size(); ++r) {
    const v1::RankStatus& rank = frame.status.ranks(r);
    const RankRates& rates = frame.rates.ranks[static_cast<size_t>(r)];
    const double used = rank.num_blocks() - rank.num_free_blocks();
    table.AddRow({absl::StrCat(rank.rank()), rank.up() ? "up" : "down",
                  absl::StrCat(rank.num_running_sequences()),
                  FormatPercent(used, rank.num_blocks()), Percent(rates.busy_ratio),
                  Percent(rates.wait_ratio), FormatCount(rates.rows),
                  Gauge(most > 0 ? rates.rows / most : 0, kSmallBar, screen.charset)});
  }
  std::vector<std::string> lines = absl::StrSplit(table.ToString(), '\n', absl::SkipEmpty());
  lines.push_back(
      absl::StrFormat("balancedness %.3f (mean / max of rows per rank)", frame.rates.balancedness));
  return lines;
}

// Cuts a line to what the screen shows, leaving escape sequences whole.
std::string Cut(const std::string& line, int columns) {
  std::string out;
  int width = 0;
  bool was_cut = false;
  for (size_t at = 0; at < line.size();) {
    size_t length = 1;
    if (line[at] == '\x1b') {
      length = std::min(line.find('m', at), line.size() - 1) - at + 1;
      out.append(line, at, length);
    } else {
      while (at + length < line.size() && (line[at + length] & 0xc0) == 0x80) ++length;
      const std::string character = line.substr(at, length);
      const int character_width = DisplayWidth(character);
      was_cut = was_cut || width + character_width > columns;
      if (!was_cut) {
        out += character;
        width += character_width;
      }
    }
    at += length;
  }
  return out;
}

void Append(std::vector<std::string> from, std::vector<std::string>& to) {
  to.insert(to.end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
}

}  // namespace

std::vector<std::string> DrawTop(const TopFrame& frame, const TopScreen& screen) {
  std::vector<std::string> lines = {Headline(frame, screen)};
  if (!frame.error.empty()) lines.push_back(Red(ForTerminal(frame.error), screen));
  Append(LoadLines(frame, screen), lines);
  lines.push_back(StageLine(frame.rates));
  lines.emplace_back();
  Append(RankLines(frame, screen), lines);
  const int num_lines = static_cast<int>(lines.size()) + 1;
  const int num_layers = static_cast<int>(frame.rates.layers.size());
  const int room = screen.rows > 0 ? screen.rows - num_lines : num_layers + 2;
  std::vector<std::string> heat = DrawHeatMap(frame.rates.layers, screen, room);
  if (!heat.empty()) lines.emplace_back();
  Append(std::move(heat), lines);
  for (std::string& line : lines) line = Cut(line, screen.columns);
  if (screen.rows > 0 && lines.size() > static_cast<size_t>(screen.rows)) {
    lines.resize(static_cast<size_t>(screen.rows));
  }
  return lines;
}

}  // namespace moed
