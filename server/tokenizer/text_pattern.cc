#include "server/tokenizer/text_pattern.h"

#include <string>

#include "config/base/status_macros.h"
#include "server/tokenizer/unicode.h"

namespace moed {

absl::StatusOr<std::unique_ptr<const Regex>> ReadPattern(const JsonReader& component) {
  const std::optional<JsonReader> pattern = component.Object("pattern");
  if (pattern && pattern->Has("Regex")) {
    const std::string expression = pattern->String("Regex");
    MOED_RETURN_IF_ERROR(component.status());
    return Regex::Compile(expression);
  }
  if (pattern && pattern->Has("String")) {
    const std::string text = pattern->String("String");
    MOED_RETURN_IF_ERROR(component.status());
    return Regex::CompileLiteral(text);
  }
  component.FailExpected("pattern", "{\"Regex\": ...} or {\"String\": ...}");
  return component.status();
}

absl::StatusOr<char32_t> ReadCharacter(const JsonReader& component, const char* key) {
  const std::string text = component.String(key);
  if (text.empty() || unicode::SequenceLength(text[0]) != text.size()) {
    component.FailExpected(key, "a string of one character");
  }
  MOED_RETURN_IF_ERROR(component.status());
  size_t pos = 0;
  return unicode::NextCodePoint(text, pos);
}

}  // namespace moed
