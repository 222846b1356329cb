#include "server/request/stop_string_matcher.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

namespace moed {
namespace {

TEST(StopStringMatcherTest, TextWithoutAStopStringPassesWhole) {
  StopStringMatcher matcher({"STOP"}, false);
  EXPECT_EQ(matcher.Append("hello ").text, "hello ");
  EXPECT_EQ(matcher.Append("world").text, "world");
  EXPECT_EQ(matcher.Flush(), "");
}

TEST(StopStringMatcherTest, AMatchAcrossPiecesIsCutAndNeverLeaks) {
  StopStringMatcher matcher({"STOP"}, false);
  EXPECT_EQ(matcher.Append("abc S").text, "abc ");
  EXPECT_EQ(matcher.Append("TO").text, "");
  const auto result = matcher.Append("P and more");
  EXPECT_EQ(result.text, "");
  EXPECT_EQ(result.matched, "STOP");
}

TEST(StopStringMatcherTest, AFalseStartIsReleased) {
  StopStringMatcher matcher({"STOP"}, false);
  EXPECT_EQ(matcher.Append("STO").text, "");
  EXPECT_EQ(matcher.Append("ST").text, "STO");
  EXPECT_EQ(matcher.Append("OX").text, "STOX");
}

TEST(StopStringMatcherTest, WhatIsHeldAtTheEndIsFlushed) {
  StopStringMatcher matcher({"STOP"}, false);
  EXPECT_EQ(matcher.Append("a ST").text, "a ");
  EXPECT_EQ(matcher.Flush(), "ST");
}

TEST(StopStringMatcherTest, TheMatchedStringIsKeptOnRequest) {
  StopStringMatcher matcher({"\n\n"}, true);
  const auto result = matcher.Append("one\n\ntwo");
  EXPECT_EQ(result.text, "one\n\n");
  EXPECT_EQ(result.matched, "\n\n");
}

TEST(StopStringMatcherTest, TheMatchThatIsCompleteFirstWinsAndThenTheLongest) {
  EXPECT_EQ(StopStringMatcher({"abcd", "bc"}, false).Append("xabcd").matched, "bc");
  EXPECT_EQ(StopStringMatcher({"c", "abc"}, false).Append("xabcd").text, "x");
}

// The result depends on the text only: compared with feeding single bytes.
TEST(StopStringMatcherTest, CutsIntoPiecesMakeNoDifference) {
  std::mt19937 random(3);
  const auto text_of = [&](size_t size) {
    std::string text;
    for (size_t i = 0; i < size; ++i) text += static_cast<char>('a' + random() % 2);
    return text;
  };
  for (int round = 0; round < 2000; ++round) {
    std::vector<std::string> stops;
    for (size_t i = 0; i < 1 + random() % 3; ++i) stops.push_back(text_of(3 + random() % 6));
    const std::string text = text_of(40);
    const auto run = [&](size_t max_piece) {
      StopStringMatcher matcher(stops, round % 2 == 0);
      std::string shown;
      for (size_t at = 0; at < text.size();) {
        const size_t size = 1 + random() % max_piece;
        const auto result = matcher.Append(std::string_view(text).substr(at, size));
        shown += result.text;
        if (result.matched) return shown + "|" + *result.matched;
        at += size;
      }
      return shown + matcher.Flush();
    };
    const std::string bytewise = run(1);
    ASSERT_EQ(run(7), bytewise);
    ASSERT_EQ(run(40), bytewise);
    const bool has_stop = std::ranges::any_of(
        stops, [&](const std::string& stop) { return text.find(stop) != std::string::npos; });
    ASSERT_EQ(bytewise.find('|') != std::string::npos, has_stop);
    if (!has_stop) {
      ASSERT_EQ(bytewise, text);
    }
  }
}

}  // namespace
}  // namespace moed
