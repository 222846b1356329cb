#include "server/tokenizer/pattern_translator.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "config/base/status_macros.h"
#include "server/tokenizer/concat.h"
#include "server/tokenizer/unicode.h"

namespace moed {
namespace {

constexpr size_t kMaxPatternBytes = 64 << 10;
constexpr int kMaxNestedSets = 16;

/// White_Space and its complement, as members of a set.
constexpr std::string_view kSpace =
    R"(\x09-\x0d \x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
constexpr std::string_view kNotSpace =
    R"(\x00-\x08\x0e-\x1f!-\x{84}\x{86}-\x{9f}\x{a1}-\x{167f}\x{1681}-\x{1fff}\x{200b}-\x{2027})"
    R"(\x{202a}-\x{202e}\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{10ffff})";
/// Alphabetic, marks, decimal digits, connector punctuation and, a peculiarity of Oniguruma, the
/// superscripts and fractions of Latin-1; as members of a set.
constexpr std::string_view kWord =
    R"(\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\x{b2}\x{b3}\x{b9}\x{bc}-\x{be}\x{24b6}-\x{24e9})"
    R"(\x{1f130}-\x{1f149}\x{1f150}-\x{1f169}\x{1f170}-\x{1f189})";
constexpr std::string_view kHexDigit = "0-9a-fA-F";

/// Long names of properties that PCRE2 only knows by another name.
constexpr std::pair<std::string_view, std::string_view> kPropertyNames[] = {
    {"letter", "L"},         {"mark", "M"},
    {"number", "N"},         {"punctuation", "P"},
    {"punct", "P"},          {"symbol", "S"},
    {"separator", "Z"},      {"other", "C"},
    {"digit", "Nd"},         {"any", "Any"},
    {"alpha", "Alphabetic"}, {"alphabetic", "Alphabetic"},
    {"upper", "Uppercase"},  {"uppercase", "Uppercase"},
    {"lower", "Lowercase"},  {"lowercase", "Lowercase"},
    {"emoji", "Emoji"},
};

std::string PropertyName(std::string_view name) {
  if (name.size() <= 2) return std::string(name);
  const std::string lower = absl::AsciiStrToLower(std::string(name));
  for (const auto& [from, to] : kPropertyNames) {
    if (lower == from) return std::string(to);
  }
  return Concat({"sc:", name});
}

/// One pass over one pattern. Lives for the duration of TranslatePattern.
class Translator {
 public:
  explicit Translator(std::string_view pattern) : in_(pattern) {}

  absl::StatusOr<std::string> Run() {
    while (pos_ < in_.size()) MOED_RETURN_IF_ERROR(TranslateNext());
    if (!group_starts_.empty()) return Error("a group is not closed");
    return std::move(out_);
  }

 private:
  absl::Status Error(std::string_view what) const {
    return absl::InvalidArgumentError(
        Concat({"translating pattern \"", in_, "\": at byte ", std::to_string(pos_), ": ", what}));
  }

  bool LookingAt(std::string_view text) const { return in_.substr(pos_).starts_with(text); }

  /// The next whole character.
  std::string_view Take() {
    const size_t start = pos_;
    pos_ = std::min(in_.size(), pos_ + unicode::SequenceLength(in_[pos_]));
    return in_.substr(start, pos_ - start);
  }

  absl::Status TranslateNext() {
    switch (in_[pos_]) {
      case '(':
        return OpenGroup();
      case ')':
        return CloseGroup();
      case '{':
        Interval();
        return absl::OkStatus();
      case '*':
      case '+':
      case '?':
        out_ += Take();
        return absl::OkStatus();
      default:
        return Atom();
    }
  }

  absl::Status Atom() {
    atom_start_ = out_.size();
    if (in_[pos_] == '[') {
      MOED_ASSIGN_OR_RETURN(const std::string set, Set(0));
      out_ += set;
    } else if (in_[pos_] == '\\') {
      MOED_ASSIGN_OR_RETURN(const Escape escape, TakeEscape());
      out_ += AsAtom(escape);
    } else {
      out_ += Take();
    }
    return absl::OkStatus();
  }

  absl::Status OpenGroup() {
    group_starts_.push_back(out_.size());
    out_ += Take();
    if (!LookingAt("?")) return absl::OkStatus();
    out_ += Take();
    // Options: Ruby's "m" (dot matches newline) is PCRE2's "s".
    while (pos_ < in_.size() && (absl::ascii_isalpha(in_[pos_]) || in_[pos_] == '-')) {
      const std::string_view option = Take();
      out_ += option == "m" ? "s" : option;
    }
    if (pos_ < in_.size() && std::string_view(":=!<>").find(in_[pos_]) != std::string_view::npos)
      out_ += Take();
    return absl::OkStatus();
  }

  absl::Status CloseGroup() {
    if (group_starts_.empty()) return Error("a group is closed that was not opened");
    out_ += Take();
    atom_start_ = group_starts_.back();
    group_starts_.pop_back();
    return absl::OkStatus();
  }

  std::string_view TakeDigits() {
    const size_t start = pos_;
    while (pos_ < in_.size() && absl::ascii_isdigit(in_[pos_])) ++pos_;
    return in_.substr(start, pos_ - start);
  }

  /// "{n}", "{n,}", "{n,m}" or "{,m}"; anything else that starts with "{" is literal.
  void Interval() {
    const size_t start = pos_++;
    const std::string_view low = TakeDigits();
    const bool has_comma = LookingAt(",");
    if (has_comma) ++pos_;
    const std::string_view high = has_comma ? TakeDigits() : "";
    if (!LookingAt("}") || (low.empty() && high.empty())) {
      pos_ = start + 1;
      atom_start_ = out_.size();
      out_ += "\\{";
      return;
    }
    ++pos_;
    out_ += Concat({"{", low.empty() ? "0" : low, has_comma ? "," : "", high, "}"});
    // In Ruby a "+" after an interval repeats it, and a "?" after "{n}" makes it optional.
    if (LookingAt("+") || (!has_comma && LookingAt("?"))) {
      out_.insert(atom_start_, "(?:");
      out_ += Concat({")", Take()});
    }
  }

  /// What a backslash introduces: members of a set, their complement, or any other text that
  /// PCRE2 reads alike in and outside of sets.
  struct Escape {
    std::string members;
    bool negated = false;
    bool is_set = false;
  };

  static std::string AsAtom(const Escape& escape) {
    if (!escape.is_set) return escape.members;
    return Concat({escape.negated ? "[^" : "[", escape.members, "]"});
  }

  absl::StatusOr<Escape> TakeEscape() {
    ++pos_;
    if (pos_ == in_.size()) return Error("the pattern ends with a backslash");
    const std::string_view c = Take();
    if (c == "s") return Escape{std::string(kSpace), false, true};
    if (c == "S") return Escape{std::string(kNotSpace), false, true};
    if (c == "w" || c == "W") return Escape{std::string(kWord), c == "W", true};
    if (c == "h" || c == "H") return Escape{std::string(kHexDigit), c == "H", true};
    if (c == "d") return Escape{"\\p{Nd}"};
    if (c == "D") return Escape{"\\P{Nd}"};
    if (c == "p" || c == "P") return TakeProperty(c);
    if (c == "u") return TakeUnicodeEscape();
    if (c == "x" && LookingAt("{")) {
      MOED_ASSIGN_OR_RETURN(const std::string_view digits, TakeBraced());
      return Escape{Concat({"\\x{", digits, "}"})};
    }
    return Escape{Concat({"\\", c})};
  }

  /// The text between braces.
  absl::StatusOr<std::string_view> TakeBraced() {
    const size_t end = in_.find('}', pos_);
    if (!LookingAt("{") || end == std::string_view::npos) return Error("expected {...}");
    const std::string_view inside = in_.substr(pos_ + 1, end - pos_ - 1);
    pos_ = end + 1;
    return inside;
  }

  /// After \p or \P, which is `letter`.
  absl::StatusOr<Escape> TakeProperty(std::string_view letter) {
    bool negated = letter == "P";
    if (!LookingAt("{")) return Escape{Concat({negated ? "\\P" : "\\p", Take()})};
    MOED_ASSIGN_OR_RETURN(std::string_view name, TakeBraced());
    if (name.starts_with("^")) {
      negated = !negated;
      name.remove_prefix(1);
    }
    return Escape{Concat({negated ? "\\P{" : "\\p{", PropertyName(name), "}"})};
  }

  absl::StatusOr<Escape> TakeUnicodeEscape() {
    const std::string_view digits = in_.substr(pos_, 4);
    if (digits.size() < 4 || !std::all_of(digits.begin(), digits.end(), absl::ascii_isxdigit)) {
      return Error("\\u must be followed by four hexadecimal digits");
    }
    pos_ += 4;
    return Escape{Concat({"\\x{", digits, "}"})};
  }

  enum class Polarity { kPositive, kNegated };

  /// One operand of an intersection: plain members, and sets nested in it.
  struct Operand {
    std::string members;
    std::vector<std::string> nested;

    std::string AsAtom(Polarity polarity) const {
      const bool negated = polarity == Polarity::kNegated;
      if (nested.empty()) return Concat({negated ? "[^" : "[", members, "]"});
      std::string any = members.empty() ? "" : Concat({"[", members, "]|"});
      for (const std::string& set : nested) any += Concat({set, "|"});
      any.pop_back();
      if (negated) return Concat({"(?:(?!", any, ")(?s:.))"});
      return nested.size() == 1 && members.empty() ? any : Concat({"(?:", any, ")"});
    }
  };

  /// A set, from "[" to its "]", as something that matches one character.
  absl::StatusOr<std::string> Set(int depth) {
    if (depth > kMaxNestedSets) return Error("sets are nested too deep");
    ++pos_;
    const bool negated = LookingAt("^");
    if (negated) ++pos_;
    std::vector<Operand> operands(1);
    if (LookingAt("]")) operands.back().members += Concat({"\\", Take()});
    while (!LookingAt("]")) {
      if (pos_ >= in_.size()) return Error("a set is not closed");
      if (LookingAt("&&")) {
        pos_ += 2;
        operands.emplace_back();
      } else {
        MOED_RETURN_IF_ERROR(SetMember(depth, operands.back()));
      }
    }
    ++pos_;
    return Intersection(operands, negated ? Polarity::kNegated : Polarity::kPositive);
  }

  absl::StatusOr<std::string> Intersection(const std::vector<Operand>& operands,
                                           Polarity polarity) {
    for (const Operand& operand : operands) {
      if (operand.members.empty() && operand.nested.empty()) return Error("a set is empty");
    }
    if (operands.size() == 1) return operands[0].AsAtom(polarity);
    std::string all;
    for (size_t i = 0; i + 1 < operands.size(); ++i) {
      all += Concat({"(?=", operands[i].AsAtom(Polarity::kPositive), ")"});
    }
    all += Concat({operands.back().AsAtom(Polarity::kPositive)});
    if (polarity == Polarity::kNegated) return Concat({"(?:(?!", all, ")(?s:.))"});
    return Concat({"(?:", all, ")"});
  }

  absl::Status SetMember(int depth, Operand& operand) {
    if (LookingAt("[:") && in_.find(":]", pos_) != std::string_view::npos) {
      const size_t end = in_.find(":]", pos_) + 2;
      operand.members += in_.substr(pos_, end - pos_);
      pos_ = end;
    } else if (LookingAt("[")) {
      MOED_ASSIGN_OR_RETURN(std::string set, Set(depth + 1));
      operand.nested.push_back(std::move(set));
    } else if (LookingAt("\\")) {
      MOED_ASSIGN_OR_RETURN(const Escape escape, TakeEscape());
      if (escape.negated) {
        operand.nested.push_back(AsAtom(escape));
      } else {
        operand.members += escape.members;
      }
    } else {
      operand.members += Take();
    }
    return absl::OkStatus();
  }

  std::string_view in_;
  size_t pos_ = 0;
  std::string out_;
  /// Where in out_ the last atom starts: what a quantifier that follows applies to.
  size_t atom_start_ = 0;
  std::vector<size_t> group_starts_;
};

}  // namespace

absl::StatusOr<std::string> TranslatePattern(std::string_view pattern) {
  if (pattern.size() > kMaxPatternBytes) {
    return absl::InvalidArgumentError(
        Concat({"translating a pattern: it has ", std::to_string(pattern.size()),
                " bytes, more than the ", std::to_string(kMaxPatternBytes), " that are allowed"}));
  }
  if (!unicode::IsValidUtf8(pattern)) {
    return absl::InvalidArgumentError("translating a pattern: it is not UTF-8");
  }
  // Taken literally, this pattern of DeepSeek-V2 needs time quadratic in a run of whitespace that
  // does not end a line. A match can only start where a run starts: if it ends at a line's end, it
  // ends at the last one of the run, which is also the last chance for every later start.
  if (pattern == R"(\s+$)") pattern = R"((?<!\s)\s+$)";
  return Translator(pattern).Run();
}

}  // namespace moed
