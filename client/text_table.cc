#include "client/text_table.h"

#include <utf8proc.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_format.h"
#include "config/base/check.h"

namespace moed {
namespace {

constexpr char kReplacement[] = "\xef\xbf\xbd";  // U+FFFD

/// Calls visit(code_point, bytes) for each character; code_point is -1 for a byte that is not
/// UTF-8.
template <typename Visit>
void ForEachCharacter(const std::string& text, const Visit& visit) {
  const auto* data = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
  for (size_t at = 0; at < text.size();) {
    utf8proc_int32_t code_point = -1;
    const utf8proc_ssize_t num_bytes =
        utf8proc_iterate(data + at, static_cast<utf8proc_ssize_t>(text.size() - at), &code_point);
    const size_t length = num_bytes > 0 ? static_cast<size_t>(num_bytes) : 1;
    visit(num_bytes > 0 ? code_point : -1, text.substr(at, length));
    at += length;
  }
}

bool IsControl(int32_t code_point) {
  return code_point < 0x20 || (code_point >= 0x7f && code_point < 0xa0);
}

}  // namespace

std::string Bar(double ratio, int width, Charset charset) {
  if (std::isnan(ratio) || width <= 0) return "";
  ratio = std::clamp(ratio, 0.0, 1.0);
  if (charset == Charset::kAscii) {
    return std::string(static_cast<size_t>(std::lround(ratio * width)), '#');
  }
  static constexpr const char* kEighths[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
  const long num_eighths = std::lround(ratio * width * 8);
  std::string bar;
  for (long i = 0; i < num_eighths / 8; ++i) bar += "█";
  return bar + kEighths[num_eighths % 8];
}

int DisplayWidth(const std::string& text) {
  int width = 0;
  ForEachCharacter(text, [&](int32_t code_point, const std::string&) {
    width += code_point < 0 ? 1 : utf8proc_charwidth(code_point);
  });
  return width;
}

std::string FormatBytes(int64_t bytes) {
  if (bytes < 1024) return absl::StrFormat("%d B", bytes);
  static constexpr const char* kUnits[] = {"KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes) / 1024;
  size_t unit = 0;
  for (; value >= 1024 && unit + 1 < std::size(kUnits); ++unit) value /= 1024;
  return absl::StrFormat("%.1f %s", value, kUnits[unit]);
}

std::string FormatSeconds(double seconds) {
  if (seconds < 1e-3) return absl::StrFormat("%.0f us", seconds * 1e6);
  if (seconds < 1) return absl::StrFormat("%.2f ms", seconds * 1e3);
  if (seconds < 60) return absl::StrFormat("%.2f s", seconds);
  const int64_t minutes = static_cast<int64_t>(seconds) / 60;
  if (minutes < 60)
    return absl::StrFormat("%dm %02ds", minutes, static_cast<int64_t>(seconds) % 60);
  if (minutes < 24 * 60) return absl::StrFormat("%dh %02dm", minutes / 60, minutes % 60);
  return absl::StrFormat("%dd %02dh", minutes / (24 * 60), minutes / 60 % 24);
}

std::string FormatPercent(double part, double whole) {
  return whole > 0 ? absl::StrFormat("%.1f%%", 100 * part / whole) : "-";
}

std::string ForTerminal(const std::string& text) {
  std::string out;
  ForEachCharacter(text, [&](int32_t code_point, const std::string& bytes) {
    const bool is_safe = code_point == '\n' || code_point == '\t' || !IsControl(code_point);
    out += is_safe ? bytes : kReplacement;
  });
  return out;
}

std::string ToValidUtf8(const std::string& bytes) {
  std::string out;
  ForEachCharacter(bytes, [&](int32_t code_point, const std::string& character) {
    out += code_point < 0 ? kReplacement : character;
  });
  return out;
}

void TextTable::AddRow(std::vector<std::string> cells) {
  MOED_CHECK(cells.size() == columns_.size());
  rows_.push_back(std::move(cells));
}

std::string TextTable::ToString() const {
  std::vector<std::string> names;
  std::vector<int> widths;
  for (size_t i = 0; i < columns_.size(); ++i) {
    names.push_back(columns_[i].name);
    widths.push_back(DisplayWidth(columns_[i].name));
    for (const auto& row : rows_) widths[i] = std::max(widths[i], DisplayWidth(row[i]));
  }
  std::string out = FormatRow(names, widths);
  for (const auto& row : rows_) out += FormatRow(row, widths);
  return out;
}

std::string TextTable::FormatRow(const std::vector<std::string>& cells,
                                 const std::vector<int>& widths) const {
  std::string line;
  for (size_t i = 0; i < cells.size(); ++i) {
    const std::string padding(static_cast<size_t>(widths[i] - DisplayWidth(cells[i])), ' ');
    if (i > 0) line += "  ";
    line += columns_[i].align == Align::kRight ? padding + cells[i] : cells[i] + padding;
  }
  line.erase(line.find_last_not_of(' ') + 1);
  return line + "\n";
}

}  // namespace moed
