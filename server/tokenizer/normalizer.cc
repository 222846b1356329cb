#include "server/tokenizer/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <string_view>
#include <utility>
#include <vector>

#include "config/base/check.h"
#include "config/base/status_macros.h"
#include "server/tokenizer/concat.h"
#include "server/tokenizer/regex.h"
#include "server/tokenizer/text_pattern.h"
#include "server/tokenizer/unicode.h"

namespace moed {
namespace {

constexpr int kMaxNesting = 8;

absl::Status CheckSize(size_t size) {
  if (size <= Normalizer::kMaxNormalizedBytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      Concat({"normalizing text: it grew to more than ",
              std::to_string(Normalizer::kMaxNormalizedBytes), " bytes"}));
}

/// NFC, NFD, NFKC or NFKD.
class UnicodeForm : public Normalizer {
 public:
  enum class Form { kC, kD, kKC, kKD };

  explicit UnicodeForm(Form form)
      : compose_(form == Form::kC || form == Form::kKC),
        compatibility_(form == Form::kKC || form == Form::kKD) {}

  absl::Status Normalize(std::string& text) const override {
    const auto is_ascii = [](char byte) { return static_cast<unsigned char>(byte) < 0x80; };
    if (std::all_of(text.begin(), text.end(), is_ascii)) return absl::OkStatus();
    std::vector<utf8proc_int32_t> code_points;
    code_points.reserve(text.size());
    for (size_t pos = 0; pos < text.size();) {
      AppendDecomposed(unicode::NextCodePoint(text, pos), code_points);
    }
    SortMarks(code_points);
    if (compose_) Compose(code_points);
    text.clear();
    for (const utf8proc_int32_t c : code_points) {
      unicode::AppendCodePoint(static_cast<char32_t>(c), text);
    }
    return CheckSize(text.size());
  }

 private:
  void AppendDecomposed(char32_t c, std::vector<utf8proc_int32_t>& out) const {
    // The longest decomposition, of U+FDFA, has 18 characters.
    utf8proc_int32_t buffer[32];
    int boundary_state = 0;
    const int options = UTF8PROC_DECOMPOSE | (compatibility_ ? UTF8PROC_COMPAT : 0);
    const utf8proc_ssize_t count =
        utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c), buffer, std::size(buffer),
                                static_cast<utf8proc_option_t>(options), &boundary_state);
    MOED_CHECK(count >= 0 && count <= std::ssize(buffer));
    out.insert(out.end(), buffer, buffer + count);
  }

  /// Canonical ordering. (utf8proc's own takes quadratic time on long runs of marks.)
  static void SortMarks(std::vector<utf8proc_int32_t>& code_points) {
    const auto combining_class = [](utf8proc_int32_t c) {
      return utf8proc_get_property(c)->combining_class;
    };
    const auto is_starter = [&](utf8proc_int32_t c) { return combining_class(c) == 0; };
    auto begin = code_points.begin();
    while (begin != code_points.end()) {
      begin = std::find_if_not(begin, code_points.end(), is_starter);
      const auto end = std::find_if(begin, code_points.end(), is_starter);
      std::stable_sort(begin, end, [&](utf8proc_int32_t a, utf8proc_int32_t b) {
        return combining_class(a) < combining_class(b);
      });
      begin = end;
    }
  }

  static void Compose(std::vector<utf8proc_int32_t>& code_points) {
    const utf8proc_ssize_t count = utf8proc_normalize_utf32(
        code_points.data(), std::ssize(code_points),
        static_cast<utf8proc_option_t>(UTF8PROC_COMPOSE | UTF8PROC_STABLE));
    MOED_CHECK(count >= 0);
    code_points.resize(static_cast<size_t>(count));
  }

  const bool compose_;
  const bool compatibility_;
};

class Lowercase : public Normalizer {
 public:
  absl::Status Normalize(std::string& text) const override {
    constexpr char32_t kCapitalIWithDot = 0x130;
    std::string lower;
    lower.reserve(text.size());
    for (size_t pos = 0; pos < text.size();) {
      const char32_t c = unicode::NextCodePoint(text, pos);
      if (c == kCapitalIWithDot) {  // the one character whose lower case has two
        lower += "i\xCC\x87";
      } else {
        unicode::AppendCodePoint(
            static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))), lower);
      }
    }
    text = std::move(lower);
    return CheckSize(text.size());
  }
};

class Strip : public Normalizer {
 public:
  struct Ends {
    bool left;
    bool right;
  };

  explicit Strip(Ends ends) : ends_(ends) {}

  absl::Status Normalize(std::string& text) const override {
    size_t begin = 0;
    size_t end = text.size();
    for (size_t pos = 0; ends_.left && pos < end;) {
      if (!unicode::IsWhitespace(unicode::NextCodePoint(text, pos))) break;
      begin = pos;
    }
    for (size_t pos = end; ends_.right && pos > begin;) {
      if (!unicode::IsWhitespace(unicode::PreviousCodePoint(text, pos))) break;
      end = pos;
    }
    text = text.substr(begin, end - begin);
    return absl::OkStatus();
  }

 private:
  const Ends ends_;
};

class StripAccents : public Normalizer {
 public:
  absl::Status Normalize(std::string& text) const override {
    std::string kept;
    kept.reserve(text.size());
    for (size_t pos = 0; pos < text.size();) {
      const size_t start = pos;
      const char32_t c = unicode::NextCodePoint(text, pos);
      if (!unicode::IsCombiningMark(c)) kept.append(text, start, pos - start);
    }
    text = std::move(kept);
    return absl::OkStatus();
  }
};

class Prepend : public Normalizer {
 public:
  explicit Prepend(std::string prefix) : prefix_(std::move(prefix)) {}

  absl::Status Normalize(std::string& text) const override {
    if (!text.empty()) text.insert(0, prefix_);
    return CheckSize(text.size());
  }

 private:
  const std::string prefix_;
};

class Replace : public Normalizer {
 public:
  Replace(std::unique_ptr<const Regex> pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}

  absl::Status Normalize(std::string& text) const override {
    std::string replaced;
    size_t copied = 0;
    const auto on_match = [&](size_t begin, size_t end) {
      if (replaced.size() > kMaxNormalizedBytes) return;
      replaced.append(text, copied, begin - copied);
      replaced += content_;
      copied = end;
    };
    MOED_RETURN_IF_ERROR(RegexSearch(*pattern_).ForEachMatch(text, on_match));
    MOED_RETURN_IF_ERROR(CheckSize(replaced.size()));
    replaced.append(text, copied);
    text = std::move(replaced);
    return CheckSize(text.size());
  }

 private:
  const std::unique_ptr<const Regex> pattern_;
  const std::string content_;
};

class Sequence : public Normalizer {
 public:
  explicit Sequence(std::vector<std::unique_ptr<const Normalizer>> steps)
      : steps_(std::move(steps)) {}

  absl::Status Normalize(std::string& text) const override {
    for (const auto& step : steps_) MOED_RETURN_IF_ERROR(step->Normalize(text));
    return absl::OkStatus();
  }

 private:
  const std::vector<std::unique_ptr<const Normalizer>> steps_;
};

absl::StatusOr<std::unique_ptr<const Normalizer>> CreateNested(const JsonReader& component,
                                                               int depth);

absl::StatusOr<std::unique_ptr<const Normalizer>> CreateSequence(const JsonReader& component,
                                                                 int depth) {
  if (depth > kMaxNesting) component.Fail(absl::InvalidArgumentError("normalizers nest too deep"));
  std::vector<std::unique_ptr<const Normalizer>> steps;
  for (const JsonReader& child : component.ObjectList("normalizers")) {
    MOED_RETURN_IF_ERROR(component.status());
    MOED_ASSIGN_OR_RETURN(auto step, CreateNested(child, depth + 1));
    steps.push_back(std::move(step));
  }
  MOED_RETURN_IF_ERROR(component.status());
  return std::make_unique<Sequence>(std::move(steps));
}

absl::StatusOr<std::unique_ptr<const Normalizer>> CreateReplace(const JsonReader& component) {
  MOED_ASSIGN_OR_RETURN(auto pattern, ReadPattern(component));
  return std::make_unique<Replace>(std::move(pattern), component.String("content"));
}

absl::StatusOr<std::unique_ptr<const Normalizer>> CreateNested(const JsonReader& component,
                                                               int depth) {
  const std::string type = component.String("type");
  MOED_RETURN_IF_ERROR(component.status());
  if (type == "Sequence") return CreateSequence(component, depth);
  if (type == "NFC") return std::make_unique<UnicodeForm>(UnicodeForm::Form::kC);
  if (type == "NFD") return std::make_unique<UnicodeForm>(UnicodeForm::Form::kD);
  if (type == "NFKC") return std::make_unique<UnicodeForm>(UnicodeForm::Form::kKC);
  if (type == "NFKD") return std::make_unique<UnicodeForm>(UnicodeForm::Form::kKD);
  if (type == "Lowercase") return std::make_unique<Lowercase>();
  if (type == "StripAccents") return std::make_unique<StripAccents>();
  if (type == "Strip") {
    return std::make_unique<Strip>(Strip::Ends{.left = component.BoolOr("strip_left", true),
                                               .right = component.BoolOr("strip_right", true)});
  }
  if (type == "Prepend") return std::make_unique<Prepend>(component.String("prepend"));
  if (type == "Replace") return CreateReplace(component);
  return absl::UnimplementedError(
      Concat({"reading tokenizer.json: normalizer ", type, " is not supported"}));
}

}  // namespace

absl::StatusOr<std::unique_ptr<const Normalizer>> Normalizer::Create(const JsonReader& component) {
  auto normalizer = CreateNested(component, 0);
  MOED_RETURN_IF_ERROR(component.status());
  return normalizer;
}

}  // namespace moed
