#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace moed {

/// Rewrites a regular expression as tokenizer.json files mean them (Oniguruma with Ruby syntax) for
/// PCRE2 compiled with UTF, UCP and MULTILINE: shorthand classes become the Unicode sets that
/// Oniguruma uses, scripts are matched without script extensions, set intersection (&&) and nested
/// sets become lookaheads and alternations, and Ruby's readings of {n,m}+ and {n}? are spelled out.
/// kInvalidArgument for an unbalanced or over-long pattern.
absl::StatusOr<std::string> TranslatePattern(std::string_view pattern);

}  // namespace moed
