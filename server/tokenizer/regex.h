#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

struct pcre2_real_code_8;
struct pcre2_real_match_context_8;
struct pcre2_real_match_data_8;
struct pcre2_real_jit_stack_8;

namespace moed {

/// A compiled pattern of a tokenizer file. Owned by the component that uses it; immutable, so any
/// thread may search with it.
class Regex {
 public:
  /// Compiles a regular expression in the syntax of tokenizer.json (see TranslatePattern).
  static absl::StatusOr<std::unique_ptr<const Regex>> Compile(std::string_view pattern);

  /// Compiles a pattern that matches exactly `text`.
  static absl::StatusOr<std::unique_ptr<const Regex>> CompileLiteral(std::string_view text);

  Regex(const Regex&) = delete;
  Regex& operator=(const Regex&) = delete;
  ~Regex();

 private:
  friend class RegexSearch;

  static absl::StatusOr<std::unique_ptr<const Regex>> CompilePcre2(std::string_view pcre2_pattern,
                                                                   std::string_view shown_pattern);

  Regex(std::string_view pattern, pcre2_real_code_8* code);

  const std::string pattern_;
  pcre2_real_code_8* const code_;
};

/// The memory that searches with one Regex need, reused from one text to the next. Made on the
/// stack of the thread that searches; the Regex must outlive it. All searches of one object share
/// a limit on time, so that no pattern and text together can hold up a thread.
class RegexSearch {
 public:
  static constexpr std::chrono::milliseconds kTimeLimit{5000};

  explicit RegexSearch(const Regex& regex, std::chrono::milliseconds time_limit = kTimeLimit);
  RegexSearch(const RegexSearch&) = delete;
  RegexSearch& operator=(const RegexSearch&) = delete;
  ~RegexSearch();

  /// Calls `on_match(begin, end)` (bytes) for each match in `text` (valid UTF-8), from left to
  /// right. An empty match right after another match is left out. kResourceExhausted when the
  /// limits on time or memory are reached.
  absl::Status ForEachMatch(std::string_view text,
                            absl::FunctionRef<void(size_t, size_t)> on_match);

 private:
  struct Match {
    bool found;
    size_t begin;
    size_t end;
  };

  absl::StatusOr<Match> Find(std::string_view text, size_t from);
  int MatchOnce(std::string_view text, size_t from);
  absl::Status CheckTime() const;

  const Regex& regex_;
  pcre2_real_match_context_8* context_;
  pcre2_real_match_data_8* data_;
  pcre2_real_jit_stack_8* jit_stack_ = nullptr;  // made when the default one does not suffice
  const std::chrono::steady_clock::time_point deadline_;
  uint32_t num_matches_ = 0;
};

}  // namespace moed
