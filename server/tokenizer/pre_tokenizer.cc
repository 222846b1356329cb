#include "server/tokenizer/pre_tokenizer.h"

#include <utility>

#include "absl/functional/function_ref.h"
#include "config/base/status_macros.h"
#include "server/tokenizer/byte_level.h"
#include "server/tokenizer/concat.h"
#include "server/tokenizer/regex.h"
#include "server/tokenizer/text_pattern.h"
#include "server/tokenizer/unicode.h"

namespace moed {
namespace {

constexpr int kMaxNesting = 8;

using CharacterTest = bool (*)(char32_t);

/// The characters of `text` that pass `test`, one match each, and what is between them.
void FindCharacters(std::string_view text, absl::FunctionRef<bool(char32_t)> test, uint32_t offset,
                    std::vector<Stretch>& stretches) {
  stretches.clear();
  size_t between = 0;
  for (size_t pos = 0; pos < text.size();) {
    const size_t begin = pos;
    if (!test(unicode::NextCodePoint(text, pos))) continue;
    const uint32_t match = offset + static_cast<uint32_t>(begin);
    if (between < begin) {
      stretches.push_back({{offset + static_cast<uint32_t>(between), match}, false});
    }
    stretches.push_back({{match, offset + static_cast<uint32_t>(pos)}, true});
    between = pos;
  }
  const uint32_t end = offset + static_cast<uint32_t>(text.size());
  if (between < text.size()) {
    stretches.push_back({{offset + static_cast<uint32_t>(between), end}, false});
  }
}

/// The matches of `search` in `text`, and what is between them.
absl::Status FindMatches(std::string_view text, RegexSearch& search, uint32_t offset,
                         std::vector<Stretch>& stretches) {
  stretches.clear();
  uint32_t between = offset;
  const auto on_match = [&](size_t begin, size_t end) {
    const TextSpan match{offset + static_cast<uint32_t>(begin),
                         offset + static_cast<uint32_t>(end)};
    if (between < match.begin) stretches.push_back({{between, match.begin}, false});
    stretches.push_back({match, true});
    between = match.end;
  };
  MOED_RETURN_IF_ERROR(search.ForEachMatch(text, on_match));
  const uint32_t end = offset + static_cast<uint32_t>(text.size());
  if (between < end) stretches.push_back({{between, end}, false});
  return absl::OkStatus();
}

/// Rewrites every pre-token: `append(pre_token, out)` appends its new text to `out`, which is empty
/// for the first.
void Rewrite(PreTokens& tokens, absl::FunctionRef<void(std::string_view, std::string&)> append) {
  if (!tokens.spans.empty() && tokens.spans[0].begin != 0) tokens.starts_input = false;
  std::string text;
  text.reserve(tokens.text.size() + tokens.text.size() / 4);
  for (TextSpan& span : tokens.spans) {
    const uint32_t begin = static_cast<uint32_t>(text.size());
    append(tokens.Get(span), text);
    span = {begin, static_cast<uint32_t>(text.size())};
  }
  tokens.text = std::move(text);
}

/// Split, and the splitting of ByteLevel.
class RegexSplit : public PreTokenizer {
 public:
  enum class Delimiter { kMatches, kBetweenMatches };

  RegexSplit(std::unique_ptr<const Regex> pattern, SplitBehavior behavior, Delimiter delimiter)
      : pattern_(std::move(pattern)), behavior_(behavior), delimiter_(delimiter) {}

  absl::Status Apply(PreTokens& tokens) const override {
    RegexSearch search(*pattern_);
    std::vector<TextSpan> parts;
    std::vector<Stretch> stretches;
    for (const TextSpan span : tokens.spans) {
      MOED_RETURN_IF_ERROR(FindMatches(tokens.Get(span), search, span.begin, stretches));
      if (delimiter_ == Delimiter::kBetweenMatches) {
        for (Stretch& stretch : stretches) stretch.is_match = !stretch.is_match;
      }
      AppendParts(stretches, behavior_, parts);
    }
    tokens.spans = std::move(parts);
    return absl::OkStatus();
  }

 private:
  const std::unique_ptr<const Regex> pattern_;
  const SplitBehavior behavior_;
  const Delimiter delimiter_;
};

void SplitAtCharacters(PreTokens& tokens, absl::FunctionRef<bool(char32_t)> test,
                       SplitBehavior behavior) {
  std::vector<TextSpan> parts;
  std::vector<Stretch> stretches;
  for (const TextSpan span : tokens.spans) {
    FindCharacters(tokens.Get(span), test, span.begin, stretches);
    AppendParts(stretches, behavior, parts);
  }
  tokens.spans = std::move(parts);
}

/// Digits, Punctuation and WhitespaceSplit.
class CharacterSplit : public PreTokenizer {
 public:
  CharacterSplit(CharacterTest test, SplitBehavior behavior) : test_(test), behavior_(behavior) {}

  absl::Status Apply(PreTokens& tokens) const override {
    SplitAtCharacters(tokens, test_, behavior_);
    return absl::OkStatus();
  }

 private:
  const CharacterTest test_;
  const SplitBehavior behavior_;
};

/// Keeps runs of word characters and runs of other characters; drops whitespace.
class Whitespace : public PreTokenizer {
 public:
  absl::Status Apply(PreTokens& tokens) const override {
    std::vector<TextSpan> parts;
    for (const TextSpan span : tokens.spans) {
      Kind previous = Kind::kSpace;
      for (size_t pos = span.begin; pos < span.end;) {
        const uint32_t begin = static_cast<uint32_t>(pos);
        const Kind kind = KindOf(unicode::NextCodePoint(tokens.text, pos));
        if (kind != Kind::kSpace && kind != previous) parts.push_back({begin, begin});
        if (kind != Kind::kSpace) parts.back().end = static_cast<uint32_t>(pos);
        previous = kind;
      }
    }
    tokens.spans = std::move(parts);
    return absl::OkStatus();
  }

 private:
  enum class Kind { kSpace, kWord, kOther };

  static Kind KindOf(char32_t c) {
    if (unicode::IsWord(c)) return Kind::kWord;
    return unicode::IsWhitespace(c) ? Kind::kSpace : Kind::kOther;
  }
};

/// Spells every byte as a character of the byte-level alphabet.
class ByteLevel : public PreTokenizer {
 public:
  enum class Prefix { kNone, kSpace };

  /// `split` may be null.
  ByteLevel(Prefix prefix, std::unique_ptr<const PreTokenizer> split)
      : prefix_(prefix), split_(std::move(split)) {}

  absl::Status Apply(PreTokens& tokens) const override {
    if (prefix_ == Prefix::kSpace) {
      Rewrite(tokens, [](std::string_view token, std::string& out) {
        if (!token.starts_with(' ')) out.push_back(' ');
        out += token;
      });
    }
    if (split_) MOED_RETURN_IF_ERROR(split_->Apply(tokens));
    Rewrite(tokens, [](std::string_view token, std::string& out) {
      byte_level::AppendSpelled(token, out);
    });
    return absl::OkStatus();
  }

 private:
  const Prefix prefix_;
  const std::unique_ptr<const PreTokenizer> split_;
};

/// Replaces spaces by a visible character (U+2581) and splits before it.
class Metaspace : public PreTokenizer {
 public:
  enum class Prepend { kNever, kFirst, kAlways };
  enum class Splitting { kOff, kBeforeReplacement };

  Metaspace(char32_t replacement, Prepend prepend, Splitting splitting)
      : replacement_(replacement), prepend_(prepend), splitting_(splitting) {
    unicode::AppendCodePoint(replacement, replacement_text_);
  }

  absl::Status Apply(PreTokens& tokens) const override {
    Rewrite(tokens, [&](std::string_view token, std::string& out) {
      const bool starts_input = tokens.starts_input && out.empty();
      const bool has_prefix = token.starts_with(' ') || token.starts_with(replacement_text_);
      const bool wants_prefix =
          prepend_ == Prepend::kAlways || (prepend_ == Prepend::kFirst && starts_input);
      if (wants_prefix && !has_prefix) out += replacement_text_;
      for (const char byte : token) {
        if (byte == ' ') {
          out += replacement_text_;
        } else {
          out.push_back(byte);
        }
      }
    });
    if (splitting_ == Splitting::kBeforeReplacement) {
      const auto is_replacement = [&](char32_t c) { return c == replacement_; };
      SplitAtCharacters(tokens, is_replacement, SplitBehavior::kMergedWithNext);
    }
    return absl::OkStatus();
  }

 private:
  const char32_t replacement_;
  const Prepend prepend_;
  const Splitting splitting_;
  std::string replacement_text_;
};

class Sequence : public PreTokenizer {
 public:
  explicit Sequence(std::vector<std::unique_ptr<const PreTokenizer>> steps)
      : steps_(std::move(steps)) {}

  absl::Status Apply(PreTokens& tokens) const override {
    for (const auto& step : steps_) MOED_RETURN_IF_ERROR(step->Apply(tokens));
    return absl::OkStatus();
  }

 private:
  const std::vector<std::unique_ptr<const PreTokenizer>> steps_;
};

using Created = absl::StatusOr<std::unique_ptr<const PreTokenizer>>;

Created CreateNested(const JsonReader& component, int depth);

Created CreateSequence(const JsonReader& component, int depth) {
  if (depth > kMaxNesting) return absl::InvalidArgumentError("pre-tokenizers nest too deep");
  std::vector<std::unique_ptr<const PreTokenizer>> steps;
  for (const JsonReader& child : component.ObjectList("pretokenizers")) {
    MOED_RETURN_IF_ERROR(component.status());
    MOED_ASSIGN_OR_RETURN(auto step, CreateNested(child, depth + 1));
    steps.push_back(std::move(step));
  }
  return std::make_unique<Sequence>(std::move(steps));
}

Created CreateSplit(const JsonReader& component) {
  MOED_ASSIGN_OR_RETURN(const SplitBehavior behavior,
                        ParseSplitBehavior(component.String("behavior")));
  MOED_ASSIGN_OR_RETURN(auto pattern, ReadPattern(component));
  const auto delimiter = component.BoolOr("invert", false) ? RegexSplit::Delimiter::kBetweenMatches
                                                           : RegexSplit::Delimiter::kMatches;
  return std::make_unique<RegexSplit>(std::move(pattern), behavior, delimiter);
}

Created CreateByteLevel(const JsonReader& component) {
  std::unique_ptr<const PreTokenizer> split;
  if (component.BoolOr("use_regex", true)) {
    MOED_ASSIGN_OR_RETURN(auto pattern, Regex::Compile(byte_level::kGpt2Pattern));
    split = std::make_unique<RegexSplit>(std::move(pattern), SplitBehavior::kIsolated,
                                         RegexSplit::Delimiter::kMatches);
  }
  const auto prefix = component.BoolOr("add_prefix_space", true) ? ByteLevel::Prefix::kSpace
                                                                 : ByteLevel::Prefix::kNone;
  return std::make_unique<ByteLevel>(prefix, std::move(split));
}

Created CreateMetaspace(const JsonReader& component) {
  MOED_ASSIGN_OR_RETURN(const char32_t replacement, ReadCharacter(component, "replacement"));
  // Old files say add_prefix_space, new ones prepend_scheme.
  const bool old_prefix = component.BoolOr("add_prefix_space", true);
  const std::string scheme = component.StringOr("prepend_scheme", old_prefix ? "always" : "never");
  Metaspace::Prepend prepend = Metaspace::Prepend::kAlways;
  if (scheme == "first") {
    prepend = Metaspace::Prepend::kFirst;
  } else if (scheme == "never") {
    prepend = Metaspace::Prepend::kNever;
  } else if (scheme != "always") {
    component.FailExpected("prepend_scheme", "\"first\", \"never\" or \"always\"");
  }
  const auto splitting = component.BoolOr("split", true) ? Metaspace::Splitting::kBeforeReplacement
                                                         : Metaspace::Splitting::kOff;
  return std::make_unique<Metaspace>(replacement, prepend, splitting);
}

Created CreatePunctuation(const JsonReader& component) {
  MOED_ASSIGN_OR_RETURN(const SplitBehavior behavior,
                        ParseSplitBehavior(component.StringOr("behavior", "Isolated")));
  return std::make_unique<CharacterSplit>(&unicode::IsPunctuation, behavior);
}

Created CreateNested(const JsonReader& component, int depth) {
  const std::string type = component.String("type");
  MOED_RETURN_IF_ERROR(component.status());
  if (type == "Sequence") return CreateSequence(component, depth);
  if (type == "Split") return CreateSplit(component);
  if (type == "ByteLevel") return CreateByteLevel(component);
  if (type == "Metaspace") return CreateMetaspace(component);
  if (type == "Whitespace") return std::make_unique<Whitespace>();
  if (type == "Punctuation") return CreatePunctuation(component);
  if (type == "WhitespaceSplit") {
    return std::make_unique<CharacterSplit>(&unicode::IsWhitespace, SplitBehavior::kRemoved);
  }
  if (type == "Digits") {
    const bool individual = component.BoolOr("individual_digits", false);
    return std::make_unique<CharacterSplit>(
        &unicode::IsNumeric, individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous);
  }
  return absl::UnimplementedError(
      Concat({"reading tokenizer.json: pre-tokenizer ", type, " is not supported"}));
}

}  // namespace

Created PreTokenizer::Create(const JsonReader& component) {
  Created pre_tokenizer = CreateNested(component, 0);
  MOED_RETURN_IF_ERROR(component.status());
  return pre_tokenizer;
}

}  // namespace moed
