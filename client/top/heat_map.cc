#include "client/top/heat_map.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace moed {
namespace {

constexpr int kLabelColumns = 9;    // "  12-15  "
constexpr int kFigureColumns = 12;  // "  0.98   123"
constexpr int kMinCells = 8;
constexpr size_t kMaxCellWidth = 3;
constexpr double kHottest = 4;  // times the mean, and beyond

constexpr const char* kAsciiShades[] = {" ", ".", ":", "-", "=", "+", "*", "#", "%", "@"};
constexpr const char* kUtf8Shades[] = {" ", "·", "░", "░", "▒", "▒", "▓", "▓", "█", "█"};
constexpr int kColorShades[] = {234, 236, 17, 19, 26, 31, 71, 178, 208, 196};
constexpr int kNumShades = 10;

// 0 for no rows; 4 or 5 around the mean; 9 for kHottest times the mean and more.
int Shade(double times_mean) {
  if (times_mean <= 0) return 0;
  const double octaves = std::log2(std::min(times_mean, kHottest));  // up to 2
  return std::clamp(static_cast<int>(std::lround(5 + 2 * octaves)), 1, kNumShades - 1);
}

// `width` columns for each value.
std::string Cells(const std::vector<double>& times_mean, size_t width, const TopScreen& screen) {
  std::string out;
  int color = -1;
  for (const double value : times_mean) {
    const int shade = Shade(value);
    if (screen.colors == Colors::kNone) {
      const char* cell =
          screen.charset == Charset::kUtf8 ? kUtf8Shades[shade] : kAsciiShades[shade];
      for (size_t i = 0; i < width; ++i) out += cell;
      continue;
    }
    if (color != kColorShades[shade]) {
      color = kColorShades[shade];
      absl::StrAppend(&out, "\x1b[48;5;", color, "m");
    }
    out.append(width, ' ');
  }
  return color >= 0 ? out + "\x1b[0m" : out;
}

// The largest of each run of `factor` values.
std::vector<double> Condense(const std::vector<double>& values, size_t factor) {
  std::vector<double> out;
  for (size_t i = 0; i < values.size(); i += factor) {
    const auto end = values.begin() + static_cast<ptrdiff_t>(std::min(i + factor, values.size()));
    out.push_back(*std::max_element(values.begin() + static_cast<ptrdiff_t>(i), end));
  }
  return out;
}

std::vector<double> TimesMean(const std::vector<double>& tokens) {
  const double sum = std::accumulate(tokens.begin(), tokens.end(), 0.0);
  std::vector<double> out;
  for (const double t : tokens) {
    out.push_back(sum > 0 ? t * static_cast<double>(tokens.size()) / sum : 0);
  }
  return out;
}

// Some layers that follow one another, as one line.
struct Line {
  int32_t first_layer = 0;
  int32_t last_layer = 0;
  std::vector<double> times_mean;  // the busiest of them, by expert
  double balancedness = 1;         // the worst of them
};

std::vector<Line> Lines(std::span<const LayerLoad> layers, size_t max_lines) {
  const size_t factor = (layers.size() + max_lines - 1) / max_lines;
  std::vector<Line> lines;
  for (size_t i = 0; i < layers.size(); ++i) {
    const std::vector<double> values = TimesMean(layers[i].tokens);
    if (i % factor == 0) {
      lines.push_back({layers[i].layer, layers[i].layer, values, layers[i].balancedness});
      continue;
    }
    Line& line = lines.back();
    line.last_layer = layers[i].layer;
    line.balancedness = std::min(line.balancedness, layers[i].balancedness);
    std::ranges::transform(line.times_mean, values, line.times_mean.begin(),
                           [](double a, double b) { return std::max(a, b); });
  }
  return lines;
}

// How experts are laid out in a line.
struct Layout {
  size_t experts_per_cell = 1;
  size_t num_cells = 0;
  size_t cell_width = 1;  // columns

  size_t width() const { return num_cells * cell_width; }
};

Layout LayOut(size_t num_experts, int columns) {
  const auto room =
      static_cast<size_t>(std::max(columns - kLabelColumns - kFigureColumns, kMinCells));
  Layout layout{.experts_per_cell = (num_experts + room - 1) / room};
  layout.num_cells = (num_experts + layout.experts_per_cell - 1) / layout.experts_per_cell;
  layout.cell_width = std::clamp<size_t>(room / layout.num_cells, 1, kMaxCellWidth);
  return layout;
}

std::string Title(const Layout& layout) {
  const std::string title = layout.experts_per_cell > 1
                                ? absl::StrCat("experts, ", layout.experts_per_cell, " to a cell")
                                : "experts";
  const bool has_room = layout.width() >= title.size();
  const std::string padding(has_room ? layout.width() - title.size() : 0, ' ');
  return absl::StrCat("  layer  ", title, padding, has_room ? "  even   busiest" : "");
}

std::string Draw(const Line& line, const Layout& layout, const TopScreen& screen) {
  const std::string label = line.first_layer == line.last_layer
                                ? absl::StrCat(line.first_layer)
                                : absl::StrCat(line.first_layer, "-", line.last_layer);
  const auto busiest = std::max_element(line.times_mean.begin(), line.times_mean.end());
  const bool has_traffic = *busiest > 0;
  return absl::StrFormat(
      "%7s  %s%s", label,
      Cells(Condense(line.times_mean, layout.experts_per_cell), layout.cell_width, screen),
      has_traffic
          ? absl::StrFormat("  %5.3f  %3d", line.balancedness, busiest - line.times_mean.begin())
          : "      -    -");
}

std::string Scale(const TopScreen& screen) {
  return absl::StrCat("         rows of an expert, times the mean of its layer: 0 ",
                      Cells({0, 0.25, 0.35, 0.5, 0.7, 1, 1.4, 2, 2.8, 4}, 1, screen), " 4");
}

}  // namespace

std::vector<std::string> DrawHeatMap(std::span<const LayerLoad> layers, const TopScreen& screen,
                                     int max_lines) {
  if (layers.empty() || layers[0].tokens.empty() || max_lines < 3) return {};
  const Layout layout = LayOut(layers[0].tokens.size(), screen.columns);
  std::vector<std::string> out = {Title(layout)};
  for (const Line& line : Lines(layers, static_cast<size_t>(max_lines - 2))) {
    out.push_back(Draw(line, layout, screen));
  }
  out.push_back(Scale(screen));
  return out;
}

}  // namespace moed
