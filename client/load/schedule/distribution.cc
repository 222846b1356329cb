#include "client/load/schedule/distribution.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <optional>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace moed::load {
namespace {

double StandardNormal(Random& random) {
  // Box and Muller; 1 - u is never 0.
  const double radius = std::sqrt(-2 * std::log1p(-random.Uniform()));
  return radius * std::cos(2 * std::numbers::pi * random.Uniform());
}

std::optional<std::vector<double>> Numbers(const std::vector<absl::string_view>& texts) {
  std::vector<double> numbers;
  for (const absl::string_view text : texts) {
    double number = 0;
    if (!absl::SimpleAtod(text, &number) || !std::isfinite(number)) return std::nullopt;
    numbers.push_back(number);
  }
  return numbers;
}

}  // namespace

absl::StatusOr<Distribution> Distribution::Parse(absl::string_view text, double min, double max) {
  const absl::Status bad = absl::InvalidArgumentError(
      absl::StrCat("'", text, "' is no distribution within [", min, ", ", max,
                   "]: expected N, A..B, normal:MEAN:STD, lognormal:MEAN:STD or exp:MEAN"));
  std::vector<absl::string_view> fields = absl::StrSplit(text, ':');
  Kind kind = Kind::kConstant;
  if (fields[0] == "normal" || fields[0] == "lognormal" || fields[0] == "exp") {
    kind = fields[0] == "normal"      ? Kind::kNormal
           : fields[0] == "lognormal" ? Kind::kLogNormal
                                      : Kind::kExponential;
    fields.erase(fields.begin());
  } else if (text.find("..") != absl::string_view::npos) {
    kind = Kind::kUniform;
    fields = absl::StrSplit(text, absl::MaxSplits("..", 1));
  }
  const std::optional<std::vector<double>> numbers = Numbers(fields);
  const size_t num_expected = kind == Kind::kConstant || kind == Kind::kExponential ? 1 : 2;
  if (!numbers.has_value() || numbers->size() != num_expected) return bad;
  const double a = numbers->front();
  const double b = numbers->back();
  if (!(a >= min && a <= max)) return bad;
  if (kind == Kind::kUniform && !(b >= a && b <= max)) return bad;
  if (kind != Kind::kUniform && num_expected == 2 && !(b >= 0)) return bad;
  if (kind == Kind::kLogNormal && !(a > 0)) return bad;
  Distribution distribution(kind, a, b);
  distribution.min_ = min;
  distribution.max_ = max;
  return distribution;
}

double Distribution::Sample(Random& random) const {
  double value = a_;
  switch (kind_) {
    case Kind::kConstant:
      return a_;
    case Kind::kUniform:
      value = a_ + (b_ - a_) * random.Uniform();
      break;
    case Kind::kNormal:
      value = a_ + b_ * StandardNormal(random);
      break;
    case Kind::kLogNormal: {
      const double variance = std::log1p(b_ * b_ / (a_ * a_));
      value = a_ * std::exp(std::sqrt(variance) * StandardNormal(random) - variance / 2);
      break;
    }
    case Kind::kExponential:
      value = -a_ * std::log1p(-random.Uniform());
      break;
  }
  return std::clamp(value, min_, max_);
}

int64_t Distribution::SampleInteger(Random& random) const {
  if (kind_ != Kind::kUniform) return std::llround(Sample(random));
  // Each integer of the range as often as any other.
  const auto low = std::llround(a_);
  return low +
         static_cast<int64_t>(random.Below(static_cast<uint64_t>(std::llround(b_) - low) + 1));
}

double Distribution::Max() const {
  if (kind_ == Kind::kConstant) return a_;
  return kind_ == Kind::kUniform ? b_ : max_;
}

double Distribution::Mean() const { return kind_ == Kind::kUniform ? (a_ + b_) / 2 : a_; }

}  // namespace moed::load
