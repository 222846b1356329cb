#include "server/tokenizer/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>

#include "absl/strings/str_format.h"
#include "config/base/check.h"
#include "config/base/status_macros.h"
#include "server/tokenizer/concat.h"
#include "server/tokenizer/pattern_translator.h"
#include "server/tokenizer/unicode.h"

namespace moed {
namespace {

constexpr size_t kJitStackStartBytes = 64 << 10;
constexpr size_t kJitStackMaxBytes = 64 << 20;
constexpr uint32_t kHeapLimitKib = 256 << 10;
constexpr uint32_t kMatchLimit = 20'000'000;
/// How many places in the text one PCRE2 call tries to start a match at, so that time is looked
/// at often even when each attempt reads far ahead and fails.
constexpr size_t kStartsPerCall = 64;
constexpr uint32_t kMatchesPerTimeCheck = 64;

std::string ErrorText(int code) {
  PCRE2_UCHAR buffer[256];
  if (pcre2_get_error_message(code, buffer, sizeof(buffer)) < 0) return std::to_string(code);
  return reinterpret_cast<const char*>(buffer);
}

PCRE2_SPTR Bytes(std::string_view text) { return reinterpret_cast<PCRE2_SPTR>(text.data()); }

}  // namespace

absl::StatusOr<std::unique_ptr<const Regex>> Regex::Compile(std::string_view pattern) {
  MOED_ASSIGN_OR_RETURN(const std::string translated, TranslatePattern(pattern));
  return CompilePcre2(translated, pattern);
}

absl::StatusOr<std::unique_ptr<const Regex>> Regex::CompileLiteral(std::string_view text) {
  std::string escaped;
  for (size_t pos = 0; pos < text.size();) {
    const char32_t c = unicode::NextCodePoint(text, pos);
    escaped += absl::StrFormat("\\x{%x}", static_cast<uint32_t>(c));
  }
  return CompilePcre2(escaped, text);
}

absl::StatusOr<std::unique_ptr<const Regex>> Regex::CompilePcre2(std::string_view pcre2_pattern,
                                                                 std::string_view shown_pattern) {
  const std::unique_ptr<pcre2_compile_context, decltype(&pcre2_compile_context_free)> context(
      pcre2_compile_context_create(nullptr), &pcre2_compile_context_free);
  MOED_CHECK(context != nullptr);
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  constexpr uint32_t kOptions =
      PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_USE_OFFSET_LIMIT | PCRE2_NEVER_BACKSLASH_C;
  int error = 0;
  PCRE2_SIZE error_offset = 0;
  pcre2_code* code = pcre2_compile(Bytes(pcre2_pattern), pcre2_pattern.size(), kOptions, &error,
                                   &error_offset, context.get());
  if (!code) {
    return absl::InvalidArgumentError(
        Concat({"compiling pattern \"", shown_pattern, "\" of tokenizer.json: ", ErrorText(error),
                " (at byte ", std::to_string(error_offset), " of its PCRE2 form \"", pcre2_pattern,
                "\")"}));
  }
  // Without a JIT compiler on this machine the interpreter gives the same matches, slower.
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
  return std::unique_ptr<const Regex>(new Regex(shown_pattern, code));
}

Regex::Regex(std::string_view pattern, pcre2_code* code) : pattern_(pattern), code_(code) {}

Regex::~Regex() { pcre2_code_free(code_); }

RegexSearch::RegexSearch(const Regex& regex, std::chrono::milliseconds time_limit)
    : regex_(regex),
      context_(pcre2_match_context_create(nullptr)),
      data_(pcre2_match_data_create(1, nullptr)),
      deadline_(std::chrono::steady_clock::now() + time_limit) {
  MOED_CHECK(context_ != nullptr && data_ != nullptr);
  pcre2_set_match_limit(context_, kMatchLimit);
  pcre2_set_heap_limit(context_, kHeapLimitKib);
}

RegexSearch::~RegexSearch() {
  pcre2_match_data_free(data_);
  pcre2_match_context_free(context_);
  if (jit_stack_) pcre2_jit_stack_free(jit_stack_);
}

absl::Status RegexSearch::CheckTime() const {
  if (std::chrono::steady_clock::now() < deadline_) return absl::OkStatus();
  return absl::ResourceExhaustedError(Concat(
      {"splitting text with pattern \"", regex_.pattern_, "\": it takes longer than is allowed"}));
}

int RegexSearch::MatchOnce(std::string_view text, size_t from) {
  pcre2_set_offset_limit(context_, std::min(text.size(), from + kStartsPerCall));
  const auto match = [&](uint32_t options) {
    return pcre2_match(regex_.code_, Bytes(text), text.size(), from, options | PCRE2_NO_UTF_CHECK,
                       data_, context_);
  };
  int result = match(0);
  if (result == PCRE2_ERROR_JIT_STACKLIMIT && !jit_stack_) {
    jit_stack_ = pcre2_jit_stack_create(kJitStackStartBytes, kJitStackMaxBytes, nullptr);
    if (jit_stack_) {
      pcre2_jit_stack_assign(context_, nullptr, jit_stack_);
      result = match(0);
    }
  }
  return result == PCRE2_ERROR_JIT_STACKLIMIT ? match(PCRE2_NO_JIT) : result;
}

absl::StatusOr<RegexSearch::Match> RegexSearch::Find(std::string_view text, size_t from) {
  while (true) {
    const int result = MatchOnce(text, from);
    if (result >= 0) {
      if (++num_matches_ % kMatchesPerTimeCheck == 0) MOED_RETURN_IF_ERROR(CheckTime());
      const PCRE2_SIZE* range = pcre2_get_ovector_pointer(data_);
      return Match{true, range[0], range[1]};
    }
    if (result != PCRE2_ERROR_NOMATCH) {
      return absl::ResourceExhaustedError(Concat(
          {"splitting text with pattern \"", regex_.pattern_, "\": at byte ", std::to_string(from),
           " of ", std::to_string(text.size()), ": ", ErrorText(result)}));
    }
    if (text.size() - from <= kStartsPerCall) return Match{false, 0, 0};
    MOED_RETURN_IF_ERROR(CheckTime());
    from += kStartsPerCall;
    while ((static_cast<unsigned char>(text[from]) & 0xC0) == 0x80) --from;
  }
}

absl::Status RegexSearch::ForEachMatch(std::string_view text,
                                       absl::FunctionRef<void(size_t, size_t)> on_match) {
  size_t from = 0;
  size_t last_end = text.size() + 1;
  while (from <= text.size()) {
    MOED_ASSIGN_OR_RETURN(const Match match, Find(text, from));
    if (!match.found) break;
    if (match.begin == match.end && match.end == last_end) {
      from += from < text.size() ? unicode::SequenceLength(text[from]) : 1;
      continue;
    }
    on_match(match.begin, match.end);
    from = last_end = match.end;
  }
  return absl::OkStatus();
}

}  // namespace moed
