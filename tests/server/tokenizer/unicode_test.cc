#include "server/tokenizer/unicode.h"

#include <gtest/gtest.h>

namespace moed::unicode {
namespace {

std::string Lossy(std::string_view bytes) {
  std::string out;
  AppendLossy(bytes, out);
  return out;
}

const std::string kBad(kReplacementCharacter);

TEST(UnicodeTest, EachMaximalInvalidPartBecomesOneReplacement) {
  EXPECT_EQ(Lossy("a\xFF"
                  "b"),
            "a" + kBad + "b");
  EXPECT_EQ(Lossy("\xE4\xBD"), kBad);  // cut short
  EXPECT_EQ(Lossy("\xE4\xBD("), kBad + "(");
  EXPECT_EQ(Lossy("\xC0\xAF"), kBad + kBad);                        // overlong
  EXPECT_EQ(Lossy("\xED\xA0\x80"), kBad + kBad + kBad);             // a surrogate
  EXPECT_EQ(Lossy("\xF4\x90\x80\x80"), kBad + kBad + kBad + kBad);  // above U+10FFFF
  EXPECT_EQ(Lossy("\xF0\x9F\x98\xF0\x9F\x98\x80"), kBad + "\xF0\x9F\x98\x80");
}

TEST(UnicodeTest, AnUnfinishedCharacterIsLeft) {
  const std::string text = "a\xF0\x9F\x98\x80";
  for (size_t length = 2; length < text.size(); ++length) {
    std::string out;
    EXPECT_EQ(AppendLossyPrefix(std::string_view(text).substr(0, length), out), 1u);
    EXPECT_EQ(out, "a");
  }
  std::string out;
  EXPECT_EQ(AppendLossyPrefix(text, out), text.size());
  EXPECT_EQ(out, text);
}

TEST(UnicodeTest, ValidityIsThatOfTheStandard) {
  for (const char* valid : {"", "a", "\xC2\x80", "\xE0\xA0\x80", "\xED\x9F\xBF", "\xEE\x80\x80",
                            "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF"}) {
    EXPECT_TRUE(IsValidUtf8(valid)) << valid;
  }
  for (const char* invalid : {"\x80", "\xC1\x80", "\xE0\x9F\x80", "\xED\xA0\x80",
                              "\xF0\x8F\x80\x80", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xC2"}) {
    EXPECT_FALSE(IsValidUtf8(invalid)) << invalid;
  }
}

TEST(UnicodeTest, EveryCharacterIsReadBackInBothDirections) {
  for (char32_t c = 0; c < 0x110000; c += c < 0x3000 ? 1 : 97) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string text = "x";
    AppendCodePoint(c, text);
    size_t pos = 1;
    ASSERT_EQ(NextCodePoint(text, pos), c);
    ASSERT_EQ(pos, text.size());
    ASSERT_EQ(PreviousCodePoint(text, pos), c);
    ASSERT_EQ(pos, 1u);
  }
}

}  // namespace
}  // namespace moed::unicode
