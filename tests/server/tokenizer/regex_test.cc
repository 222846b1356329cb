#include "server/tokenizer/regex.h"

#include <gtest/gtest.h>

#include <vector>

#include "server/tokenizer/pattern_translator.h"

namespace moed {
namespace {

using Matches = std::vector<std::string>;

Matches Find(std::string_view pattern, std::string_view text) {
  const auto regex = Regex::Compile(pattern);
  EXPECT_TRUE(regex.ok()) << regex.status();
  if (!regex.ok()) return {};
  Matches matches;
  const absl::Status status = RegexSearch(**regex).ForEachMatch(
      text,
      [&](size_t begin, size_t end) { matches.emplace_back(text.substr(begin, end - begin)); });
  EXPECT_TRUE(status.ok()) << status;
  return matches;
}

// The expected values of this suite were read off Oniguruma with Ruby syntax.
TEST(RegexTest, SpaceIsUnicodeWhiteSpaceInAndOutOfSets) {
  const std::string text =
      "a \xC2\x85\xE1\xA0\x8E\xE2\x80\x8B\xE3\x80\x80";  // a, space, NEL, MVS, ZWSP, ideographic
  const Matches spaces = {" ", "\xC2\x85", "\xE3\x80\x80"};
  const Matches others = {"a", "\xE1\xA0\x8E", "\xE2\x80\x8B"};
  EXPECT_EQ(Find(R"(\s)", text), spaces);
  EXPECT_EQ(Find(R"([\s])", text), spaces);
  EXPECT_EQ(Find(R"([^\S])", text), spaces);
  EXPECT_EQ(Find(R"(\S)", text), others);
  EXPECT_EQ(Find(R"([\S])", text), others);
  EXPECT_EQ(Find(R"([^\s])", text), others);
}

TEST(RegexTest, WordCharactersAreThoseOfOniguruma) {
  EXPECT_EQ(Find(R"(\w+)", "a1_\xC2\xB2\xCC\x81-\xE2\x93\x90\xE2\x82\x82"),
            (Matches{"a1_\xC2\xB2\xCC\x81", "\xE2\x93\x90"}));
  EXPECT_EQ(Find(R"([^\W\d])", "a1-b"), (Matches{"a", "b"}));
}

TEST(RegexTest, SetsIntersectAndNest) {
  EXPECT_EQ(Find(R"([a-c&&[^b]]+)", "abcca"), (Matches{"a", "cca"}));
  EXPECT_EQ(Find(R"([a[bc]d]+)", "xabcdy"), (Matches{"abcd"}));
  EXPECT_EQ(Find(R"([^a[bc]]+)", "xabcdy"), (Matches{"x", "dy"}));
  EXPECT_EQ(Find(R"([^a-c&&[^b]]+)", "abc"), (Matches{"b"}));
  EXPECT_EQ(Find(R"([]a]+)", "a]b"), (Matches{"a]"}));
  EXPECT_EQ(Find(R"([[:alpha:]\-]+)", "a-1"), (Matches{"a-"}));
}

TEST(RegexTest, ScriptsAreMatchedWithoutExtensions) {
  const std::string text = "\xE6\xBC\xA2\xE3\x80\x81";  // a Han character; a comma used with Han
  EXPECT_EQ(Find(R"(\p{Han})", text), (Matches{"\xE6\xBC\xA2"}));
  EXPECT_EQ(Find(R"([^\p{Han}])", text), (Matches{"\xE3\x80\x81"}));
  EXPECT_EQ(Find(R"(\p{^L})", "a1"), (Matches{"1"}));
  EXPECT_EQ(Find(R"(\p{Letter}+)", "ab1"), (Matches{"ab"}));
}

TEST(RegexTest, IntervalsFollowRuby) {
  EXPECT_EQ(Find(R"(\p{N}{1,3}+)", "a1234567b"), (Matches{"1234567"}));
  EXPECT_EQ(Find(R"((?:ab){1,2}+)", "ababab"), (Matches{"ababab"}));
  EXPECT_EQ(Find(R"(\d{1,3})", "1234567"), (Matches{"123", "456", "7"}));
  EXPECT_EQ(Find(R"(ba{,2})", "baaa"), (Matches{"baa"}));
  EXPECT_EQ(Find(R"(xa{2}?)", "xaa x"), (Matches{"xaa", "x"}));
  EXPECT_EQ(Find(R"(a{b)", "a{b"), (Matches{"a{b"}));
  EXPECT_EQ(Find(R"(a++b)", "aab"), (Matches{"aab"}));
}

TEST(RegexTest, AnchorsAreThoseOfLines) {
  EXPECT_EQ(Find(R"(^b)", "ab\nb"), (Matches{"b"}));
  EXPECT_EQ(Find(R"(b$)", "b\nb"), (Matches{"b", "b"}));
  EXPECT_EQ(Find(R"(\s+$)", "a  \n  b  "), (Matches{"  ", "  "}));
  EXPECT_EQ(Find(R"((?m:a.b))", "a\nb"), (Matches{"a\nb"}));
  EXPECT_EQ(Find(R"(a.b)", "a\nb"), Matches{});
}

TEST(RegexTest, EscapesOfOtherEnginesAreUnderstood) {
  EXPECT_EQ(Find(R"(\u0061\x{62})", "ab"), (Matches{"ab"}));
  EXPECT_EQ(Find(R"(\h+)", "xff g"), (Matches{"ff"}));
}

TEST(RegexTest, LookaheadAndCaseOptionsWork) {
  EXPECT_EQ(Find(R"(\s+(?!\S)|\s+)", "a   b  "), (Matches{"  ", " ", "  "}));
  EXPECT_EQ(Find(R"((?i:'s|'ll))", "'S'lL's"), (Matches{"'S", "'lL", "'s"}));
}

TEST(RegexTest, AnEmptyMatchRightAfterAMatchIsLeftOut) {
  EXPECT_EQ(Find(R"(a*)", "aab"), (Matches{"aa", ""}));
}

TEST(RegexTest, ALiteralMatchesItselfOnly) {
  const auto regex = Regex::CompileLiteral("a.[\xE2\x96\x81");
  ASSERT_TRUE(regex.ok()) << regex.status();
  size_t found_at = 0;
  const auto on_match = [&](size_t begin, size_t) { found_at = begin; };
  ASSERT_TRUE(RegexSearch(**regex).ForEachMatch("ab a.[\xE2\x96\x81", on_match).ok());
  EXPECT_EQ(found_at, 3u);
}

TEST(RegexTest, MalformedPatternsAreRefused) {
  for (const char* pattern : {"(", ")", "[a", "a\\", "[a&&]", "\\u12", "\\p{Lu", "*",
                              "\\p{Nonsense}", "(?<=a*)b", "\xFF"}) {
    const auto regex = Regex::Compile(pattern);
    EXPECT_EQ(regex.status().code(), absl::StatusCode::kInvalidArgument) << pattern;
  }
  const std::string nested = std::string(100, '[') + std::string(100, ']');
  EXPECT_FALSE(TranslatePattern(nested).ok());
  EXPECT_FALSE(TranslatePattern(std::string(1 << 20, 'a')).ok());
}

TEST(RegexTest, APatternThatBacktracksWithoutEndIsStopped) {
  const auto regex = Regex::Compile(R"((?:a|aa|a+)+[bc])");
  ASSERT_TRUE(regex.ok()) << regex.status();
  const absl::Status status =
      RegexSearch(**regex).ForEachMatch(std::string(64, 'a'), [](size_t, size_t) {});
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
}

TEST(RegexTest, APatternThatNeedsQuadraticTimeIsStopped) {
  const auto regex = Regex::Compile(R"([ab]*c)");
  ASSERT_TRUE(regex.ok()) << regex.status();
  const absl::Status status = RegexSearch(**regex, std::chrono::milliseconds(20))
                                  .ForEachMatch(std::string(1 << 20, 'a'), [](size_t, size_t) {});
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
}

TEST(RegexTest, WhitespaceBeforeALineEndIsFoundInLinearTime) {
  const std::string spaces(1 << 20, ' ');
  EXPECT_EQ(Find(R"(\s+$)", spaces + "x"), Matches{});
  EXPECT_EQ(Find(R"(\s+$)", spaces).size(), 1u);
}

TEST(RegexTest, GroupsRepeatOverAMegabyte) {
  EXPECT_EQ(Find(R"([\p{Ll}&&[^x]]*)", std::string(1 << 20, 'a'))[0].size(), size_t{1} << 20);
}

}  // namespace
}  // namespace moed
