#include "config/json_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace moed {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

JsonReader Parsed(absl::string_view text) {
  absl::StatusOr<JsonReader> json = JsonReader::Parse(text, "a.json");
  EXPECT_TRUE(json.ok()) << json.status();
  return *json;
}

std::string ParseError(absl::string_view text) {
  const absl::Status status = JsonReader::Parse(text, "a.json").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  return std::string(status.message());
}

TEST(JsonReaderTest, ReadsEveryType) {
  const JsonReader json = Parsed(R"({"i": -3, "n": 2.5, "b": true, "s": "x", "l": [1, 2],
                                     "names": ["a", "b"], "o": {"i": 4}, "os": [{"i": 5}]})");
  EXPECT_EQ(json.Int("i"), -3);
  EXPECT_EQ(json.Number("n"), 2.5);
  EXPECT_EQ(json.Number("i"), -3.0);
  EXPECT_TRUE(json.BoolOr("b", false));
  EXPECT_EQ(json.String("s"), "x");
  EXPECT_THAT(json.IntList("l"), ElementsAre(1, 2));
  EXPECT_THAT(json.IntOrIntList("l"), ElementsAre(1, 2));
  EXPECT_THAT(json.IntOrIntList("i"), ElementsAre(-3));
  EXPECT_THAT(json.StringList("names"), ElementsAre("a", "b"));
  EXPECT_EQ(json.Object("o")->Int("i"), 4);
  EXPECT_EQ(json.ObjectList("os").at(0).Int("i"), 5);
  EXPECT_TRUE(json.status().ok()) << json.status();
}

TEST(JsonReaderTest, MissingAndNullBothGiveTheFallback) {
  const JsonReader json = Parsed(R"({"null": null})");
  for (const char* key : {"null", "missing"}) {
    EXPECT_FALSE(json.Has(key));
    EXPECT_EQ(json.IntOr(key, {}, 7), 7);
    EXPECT_EQ(json.NumberOr(key, {}, 0.5), 0.5);
    EXPECT_TRUE(json.BoolOr(key, true));
    EXPECT_EQ(json.StringOr(key, "d"), "d");
    EXPECT_THAT(json.IntOrIntList(key), IsEmpty());
    EXPECT_FALSE(json.Object(key).has_value());
    EXPECT_THAT(json.ObjectList(key), IsEmpty());
  }
  EXPECT_TRUE(json.status().ok());
}

TEST(JsonReaderTest, ErrorsNameFilePathExpectedAndSeen) {
  const JsonReader json = Parsed(R"({"rope": {"factor": "abc"}, "list": [{"x": 1}, {"x": []}]})");
  json.Object("rope")->Number("factor");
  EXPECT_EQ(json.status().message(),
            "a.json: key 'rope.factor': expected a number, got string \"abc\"");
  const JsonReader again = Parsed(R"({"list": [{"x": 1}, {"x": []}]})");
  again.ObjectList("list").at(1).Int("x", {0});
  EXPECT_EQ(again.status().message(),
            "a.json: key 'list[1].x': expected an integer of at least 0, got array []");
}

TEST(JsonReaderTest, TheFirstErrorStays) {
  const JsonReader json = Parsed(R"({"a": 1})");
  json.String("a");
  json.Int("b");
  EXPECT_EQ(json.status().message(), "a.json: key 'a': expected a string, got 1");
}

TEST(JsonReaderTest, RequiredKeysThatAreMissingAreNamed) {
  const JsonReader json = Parsed("{}");
  json.Int("size", {1, 9});
  EXPECT_EQ(json.status().message(),
            "a.json: key 'size': expected an integer from 1 to 9, got nothing");
}

TEST(JsonReaderTest, NumbersOutOfRangeAreRefused) {
  for (const char* text : {R"({"x": 0})", R"({"x": 10})", R"({"x": 1.5})", R"({"x": 2.0})",
                           R"({"x": 18446744073709551615})", R"({"x": 1e3})", R"({"x": true})"}) {
    const JsonReader json = Parsed(text);
    json.Int("x", {1, 9});
    EXPECT_FALSE(json.status().ok()) << text;
  }
  const JsonReader json = Parsed(R"({"x": 1.5})");
  json.Number("x", {0, 1});
  EXPECT_THAT(std::string(json.status().message()), HasSubstr("a number from 0 to 1, got 1.5"));
}

TEST(JsonReaderTest, ListsWithOneBadItemAreRefused) {
  const JsonReader ints = Parsed(R"({"x": [1, "2"]})");
  EXPECT_THAT(ints.IntList("x"), IsEmpty());
  EXPECT_FALSE(ints.status().ok());
  const JsonReader strings = Parsed(R"({"x": ["1", 2]})");
  EXPECT_THAT(strings.StringList("x"), IsEmpty());
  EXPECT_FALSE(strings.status().ok());
}

TEST(JsonReaderTest, BrokenTextIsRefusedWithItsPlace) {
  EXPECT_THAT(ParseError(R"({"a": })"), HasSubstr("a.json: not JSON at byte 7"));
  EXPECT_THAT(ParseError(""), HasSubstr("not JSON"));
  EXPECT_THAT(ParseError("{\"a\": \"\xff\"}"), HasSubstr("not JSON"));
  EXPECT_THAT(ParseError("{} x"), HasSubstr("not JSON"));
  EXPECT_THAT(ParseError(R"({"a": 1e999})"), HasSubstr("not JSON"));
  EXPECT_THAT(ParseError("[1]"), HasSubstr("expected a JSON object, got array [1]"));
}

TEST(JsonReaderTest, DuplicateKeysAreRefused) {
  EXPECT_THAT(ParseError(R"({"o": {"a": 1, "a": 2}})"), HasSubstr("duplicate key 'a'"));
  EXPECT_TRUE(JsonReader::Parse(R"({"a": {"a": 1}, "b": [{"a": 1}, {"a": 2}]})", "x").ok());
}

TEST(JsonReaderTest, VeryDeepNestingIsRefusedWithoutHarm) {
  const std::string deep = "{\"a\":" + std::string(1000000, '[');
  EXPECT_THAT(ParseError(deep), HasSubstr("nested deeper than 64"));
}

TEST(JsonReaderTest, UnknownKeysAreNamed) {
  constexpr absl::string_view kKnown[] = {"a", "b"};
  const JsonReader good = Parsed(R"({"a": 1})");
  good.RefuseUnknownKeys(kKnown);
  EXPECT_TRUE(good.status().ok());
  const JsonReader bad = Parsed(R"({"o": {"a": 1, "c": 2}})");
  bad.Object("o")->RefuseUnknownKeys(kKnown);
  EXPECT_EQ(bad.status().message(), "a.json: key 'o.c': this key is not known");
}

TEST(JsonReaderTest, LongValuesAreCutInMessages) {
  const JsonReader json = Parsed(R"({"a": ")" + std::string(1000, 'x') + R"("})");
  json.Int("a");
  EXPECT_LT(json.status().message().size(), 150u);
}

}  // namespace
}  // namespace moed
