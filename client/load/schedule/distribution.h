#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "client/load/stats/random.h"

namespace moed::load {

/// A random number: of tokens, of turns, of seconds to think.
///
/// A value.
class Distribution {
 public:
  /// N (always N), A..B (uniform), normal:MEAN:STD, lognormal:MEAN:STD (mean and standard deviation
  /// of the value itself) or exp:MEAN; all of them cut to [min, max], which must hold the mean.
  /// INVALID_ARGUMENT says what is wrong.
  static absl::StatusOr<Distribution> Parse(absl::string_view text, double min, double max);

  static Distribution Always(double value) { return Distribution(Kind::kConstant, value, 0); }

  double Sample(Random& random) const;

  /// Rounded to the nearest integer.
  int64_t SampleInteger(Random& random) const;

  /// The largest that can come.
  double Max() const;
  double Mean() const;

 private:
  enum class Kind : uint8_t { kConstant, kUniform, kNormal, kLogNormal, kExponential };

  Distribution(Kind kind, double a, double b) : kind_(kind), a_(a), b_(b), min_(a), max_(a) {}

  Kind kind_;
  double a_;  // the value, the low end or the mean
  double b_;  // the high end or the standard deviation
  double min_;
  double max_;
};

}  // namespace moed::load
