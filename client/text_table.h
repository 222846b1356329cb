#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace moed {

/// What may be drawn: eighth blocks on a terminal that speaks UTF-8, else plain ASCII.
enum class Charset : uint8_t { kAscii, kUtf8 };

/// A bar of `width` cells, filled to `ratio` (cut to [0, 1]; not a number is empty). No trailing
/// blanks.
std::string Bar(double ratio, int width, Charset charset);

/// Cells that a terminal needs for UTF-8 text. Invalid bytes count as one each.
int DisplayWidth(const std::string& text);

/// "512 B", "1.5 KiB", "2.0 GiB".
std::string FormatBytes(int64_t bytes);

/// "850 us", "1.25 ms", "3.40 s", "2h 05m".
std::string FormatSeconds(double seconds);

/// "12.5%"; "-" when there is nothing to divide by.
std::string FormatPercent(double part, double whole);

/// `text` for a terminal: control characters other than newline and tab, which could move its
/// cursor or change its state, become U+FFFD, and so do bytes that are not UTF-8.
std::string ForTerminal(const std::string& text);

/// `bytes` when they are valid UTF-8; else with U+FFFD in place of every byte that is not.
std::string ToValidUtf8(const std::string& bytes);

/// A table of text with a header, columns aligned by what a terminal shows.
class TextTable {
 public:
  enum class Align : uint8_t { kLeft, kRight };
  struct Column {
    std::string name;
    Align align = Align::kRight;
  };

  explicit TextTable(std::vector<Column> columns) : columns_(std::move(columns)) {}

  /// As many cells as there are columns.
  void AddRow(std::vector<std::string> cells);

  /// Lines that end with a newline, without trailing blanks.
  std::string ToString() const;

 private:
  std::string FormatRow(const std::vector<std::string>& cells,
                        const std::vector<int>& widths) const;

  const std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace moed
