#include "client/load/schedule/rate_schedule.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "config/base/status_macros.h"

namespace moed::load {
namespace {

using Segment = RateSchedule::Segment;
using Shape = RateSchedule::Shape;

constexpr double kInfinite = std::numeric_limits<double>::infinity();
constexpr double kMaxLevel = 1e7;
constexpr double kMaxSeconds = 1e7;

absl::Status BadSegment(absl::string_view segment, absl::string_view why) {
  return absl::InvalidArgumentError(
      absl::StrCat("the schedule segment '", segment, "' ", why,
                   "; expected LEVEL, LEVEL:SECONDS, FROM..TO:SECONDS or FROM..TO:SECONDS:exp"));
}

bool ParseLevels(absl::string_view text, Segment& out) {
  const std::pair<absl::string_view, absl::string_view> levels =
      absl::StrSplit(text, absl::MaxSplits("..", 1));
  const bool is_ramp = text.find("..") != absl::string_view::npos;
  return absl::SimpleAtod(levels.first, &out.from) &&
         absl::SimpleAtod(is_ramp ? levels.second : levels.first, &out.to);
}

absl::StatusOr<Segment> ParseSegment(absl::string_view text, bool is_last) {
  const std::vector<absl::string_view> fields = absl::StrSplit(text, ':');
  Segment segment;
  if (fields.size() > 3 || !ParseLevels(fields[0], segment)) {
    return BadSegment(text, "is not understood");
  }
  const auto in_range = [](double level) { return level >= 0 && level <= kMaxLevel; };
  if (!in_range(segment.from) || !in_range(segment.to)) {
    return BadSegment(text, absl::StrCat("has a level outside [0, ", kMaxLevel, "]"));
  }
  segment.seconds = kInfinite;
  if (fields.size() == 1) {
    if (!is_last || segment.from != segment.to) return BadSegment(text, "needs its seconds");
    return segment;
  }
  if (!absl::SimpleAtod(fields[1], &segment.seconds) || !(segment.seconds > 0) ||
      segment.seconds > kMaxSeconds) {
    return BadSegment(text, absl::StrCat("lasts no time in (0, ", kMaxSeconds, "] seconds"));
  }
  if (fields.size() == 2) return segment;
  if (fields[2] != "exp") return BadSegment(text, "has a shape other than exp");
  if (segment.from <= 0 || segment.to <= 0) {
    return BadSegment(text, "ramps exponentially from or to 0");
  }
  segment.shape = Shape::kExponential;
  return segment;
}

double LevelIn(const Segment& segment, double seconds) {
  if (segment.from == segment.to) return segment.from;
  const double part = seconds / segment.seconds;
  return segment.shape == Shape::kLinear ? segment.from + (segment.to - segment.from) * part
                                         : segment.from * std::pow(segment.to / segment.from, part);
}

double IntegralIn(const Segment& segment, double seconds) {
  if (segment.from == 0 && segment.to == 0) return 0;
  if (segment.from == segment.to) return segment.from * seconds;
  if (segment.shape == Shape::kLinear)
    return (segment.from + LevelIn(segment, seconds)) / 2 * seconds;
  const double growth = std::log(segment.to / segment.from) / segment.seconds;
  return segment.from * std::expm1(growth * seconds) / growth;
}

// The inverse of IntegralIn, for an amount that the segment reaches.
double SecondsIn(const Segment& segment, double amount) {
  if (amount <= 0) return 0;
  if (segment.from == segment.to) return amount / segment.from;
  if (segment.shape == Shape::kExponential) {
    const double growth = std::log(segment.to / segment.from) / segment.seconds;
    return std::log1p(amount * growth / segment.from) / growth;
  }
  // slope / 2 * t^2 + from * t = amount, in the form that does not cancel.
  const double slope = (segment.to - segment.from) / segment.seconds;
  const double root = std::sqrt(std::max(0.0, segment.from * segment.from + 2 * slope * amount));
  return 2 * amount / (segment.from + root);
}

}  // namespace

absl::StatusOr<RateSchedule> RateSchedule::Parse(absl::string_view text) {
  const std::vector<absl::string_view> parts = absl::StrSplit(text, ',');
  std::vector<Segment> segments;
  for (size_t i = 0; i < parts.size(); ++i) {
    MOED_ASSIGN_OR_RETURN(Segment segment, ParseSegment(parts[i], i + 1 == parts.size()));
    segments.push_back(segment);
  }
  RateSchedule schedule(std::move(segments));
  if (schedule.max_level() <= 0) {
    return absl::InvalidArgumentError(absl::StrCat("the schedule '", text, "' is 0 throughout"));
  }
  return schedule;
}

RateSchedule RateSchedule::Constant(double level) {
  return RateSchedule({{.from = level, .to = level, .seconds = kInfinite}});
}

RateSchedule::RateSchedule(std::vector<Segment> segments) : segments_(std::move(segments)) {
  for (const Segment& segment : segments_) seconds_ += segment.seconds;
}

double RateSchedule::LevelAt(double seconds) const {
  for (const Segment& segment : segments_) {
    if (seconds < segment.seconds) return LevelIn(segment, std::max(0.0, seconds));
    seconds -= segment.seconds;
  }
  return 0;
}

double RateSchedule::Cumulative(double seconds) const {
  double amount = 0;
  for (const Segment& segment : segments_) {
    if (seconds <= 0) break;
    amount += IntegralIn(segment, std::min(seconds, segment.seconds));
    seconds -= segment.seconds;
  }
  return amount;
}

std::optional<double> RateSchedule::TimeOf(double amount) const {
  double begin = 0;
  for (const Segment& segment : segments_) {
    const double in_segment = IntegralIn(segment, segment.seconds);
    // What rounding adds to the sum of many gaps must not push an arrival over the end.
    if (amount <= in_segment * (1 + 1e-12) && in_segment > 0) {
      return begin + std::min(SecondsIn(segment, amount), segment.seconds);
    }
    amount -= in_segment;
    begin += segment.seconds;
  }
  return std::nullopt;
}

double RateSchedule::max_level() const {
  double level = 0;
  for (const Segment& segment : segments_) level = std::max({level, segment.from, segment.to});
  return level;
}

}  // namespace moed::load
