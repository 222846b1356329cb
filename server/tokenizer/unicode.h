#pragma once

#include <cstddef>
#include <string>
#include <string_view>

/// UTF-8 and character classes, as the patterns and flags of tokenizer.json need them. Pure
/// functions. "Valid text" below means valid UTF-8.
namespace moed::unicode {

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

/// Whether `bytes` is valid UTF-8 (no surrogates, no overlong forms, nothing above U+10FFFF).
bool IsValidUtf8(std::string_view bytes);

/// Appends `bytes` to `out` with one U+FFFD per maximal invalid part, except for an unfinished
/// character at the end, which a later byte may complete. Returns how many bytes were consumed;
/// at most 3 are left.
size_t AppendLossyPrefix(std::string_view bytes, std::string& out);

/// The same, where nothing follows: an unfinished character becomes one U+FFFD.
void AppendLossy(std::string_view bytes, std::string& out);

void AppendCodePoint(char32_t code_point, std::string& out);

/// The character that starts at `pos` of valid text; moves `pos` past it.
char32_t NextCodePoint(std::string_view text, size_t& pos);

/// The character that ends before `pos` of valid text; moves `pos` to its start.
char32_t PreviousCodePoint(std::string_view text, size_t& pos);

/// Length in bytes of the character that starts with `lead` in valid text.
size_t SequenceLength(char lead);

/// Unicode White_Space.
bool IsWhitespace(char32_t c);
/// \w: Alphabetic, marks, decimal digits, connector punctuation, joiners.
bool IsWord(char32_t c);
/// General category N.
bool IsNumeric(char32_t c);
/// General category P, or ASCII punctuation and symbols.
bool IsPunctuation(char32_t c);
/// General category M.
bool IsCombiningMark(char32_t c);

}  // namespace moed::unicode
