#include "client/text_table.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>

namespace moed {
namespace {

TEST(BarTest, FillsToTheRatio) {
  EXPECT_EQ(Bar(0.5, 8, Charset::kAscii), "####");
  EXPECT_EQ(Bar(1, 4, Charset::kUtf8), "████");
  EXPECT_EQ(Bar(0.5, 1, Charset::kUtf8), "▌");
  EXPECT_EQ(Bar(0.28125, 4, Charset::kUtf8), "█▏");
  EXPECT_EQ(Bar(0, 8, Charset::kUtf8), "");
}

TEST(BarTest, ValuesOutsideTheRangeAreCut) {
  EXPECT_EQ(Bar(7, 3, Charset::kAscii), "###");
  EXPECT_EQ(Bar(-1, 3, Charset::kAscii), "");
  EXPECT_EQ(Bar(std::nan(""), 3, Charset::kUtf8), "");
  EXPECT_EQ(Bar(1, -5, Charset::kAscii), "");
}

TEST(TextTableTest, ColumnsAreAlignedByWhatATerminalShows) {
  TextTable table({{"n"}, {"name", TextTable::Align::kLeft}, {"size"}});
  table.AddRow({"1", "漢字", "10"});
  table.AddRow({"20", "e\xcc\x81t", "7"});  // e and a combining accent: two cells
  EXPECT_EQ(table.ToString(),
            " n  name  size\n"
            " 1  漢字    10\n"
            "20  e\xcc\x81t       7\n");
}

TEST(TextTableTest, NoLineEndsWithBlanks) {
  TextTable table({{"a", TextTable::Align::kLeft}, {"long name", TextTable::Align::kLeft}});
  table.AddRow({"x", ""});
  EXPECT_EQ(table.ToString(), "a  long name\nx\n");
}

TEST(DisplayWidthTest, InvalidBytesCountAsOneEach) { EXPECT_EQ(DisplayWidth("a\xff\xc3"), 3); }

TEST(FormatTest, BytesAndSecondsHaveReadableUnits) {
  EXPECT_EQ(FormatBytes(0), "0 B");
  EXPECT_EQ(FormatBytes(1023), "1023 B");
  EXPECT_EQ(FormatBytes(1536), "1.5 KiB");
  EXPECT_EQ(FormatBytes(int64_t{5} << 40), "5.0 TiB");
  EXPECT_EQ(FormatBytes(int64_t{5} << 50), "5120.0 TiB");
  EXPECT_EQ(FormatSeconds(12e-6), "12 us");
  EXPECT_EQ(FormatSeconds(0.01234), "12.34 ms");
  EXPECT_EQ(FormatSeconds(3.5), "3.50 s");
  EXPECT_EQ(FormatSeconds(125), "2m 05s");
  EXPECT_EQ(FormatSeconds(7500), "2h 05m");
  EXPECT_EQ(FormatSeconds(93600), "1d 02h");
  EXPECT_EQ(FormatPercent(1, 8), "12.5%");
  EXPECT_EQ(FormatPercent(0, 0), "-");
}

TEST(TerminalTextTest, ControlCharactersCannotReachATerminal) {
  EXPECT_EQ(ForTerminal("a\tb\n"), "a\tb\n");
  EXPECT_EQ(ForTerminal("\x1b[2J\x07"), "�[2J�");
  EXPECT_EQ(ForTerminal("\xc2\x9b\x7f"), "��");  // the C1 form of ESC [, and DEL
  EXPECT_EQ(ForTerminal("漢\xff"), "漢�");
}

TEST(TerminalTextTest, ValidTextStaysAsItIs) {
  EXPECT_EQ(ToValidUtf8("käse 👍🏽\x1b"), "käse 👍🏽\x1b");
  EXPECT_EQ(ToValidUtf8("\xf0\x9f\x98"), "���");
  EXPECT_EQ(ToValidUtf8("\xed\xa0\x80"), "���");  // a surrogate
}

}  // namespace
}  // namespace moed
