#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace moed::load {

/// A level (requests per second, or requests in flight) over time, in steps and ramps.
///
/// A value.
class RateSchedule {
 public:
  enum class Shape : uint8_t { kLinear, kExponential };
  struct Segment {
    double from = 0;
    double to = 0;
    double seconds = 0;  // may be infinite when from == to
    Shape shape = Shape::kLinear;
  };

  /// Segments by comma, each LEVEL, LEVEL:SECONDS, FROM..TO:SECONDS or FROM..TO:SECONDS:exp; only
  /// the last may lack its seconds, and then lasts for ever. INVALID_ARGUMENT says what is wrong.
  static absl::StatusOr<RateSchedule> Parse(absl::string_view text);

  /// One level for ever.
  static RateSchedule Constant(double level);

  /// 0 after the end.
  double LevelAt(double seconds) const;

  /// The integral of the level up to `seconds`: how many arrivals there are by then.
  double Cumulative(double seconds) const;

  /// When the integral reaches `amount`; nothing when it never does.
  std::optional<double> TimeOf(double amount) const;

  double seconds() const { return seconds_; }
  double max_level() const;
  const std::vector<Segment>& segments() const { return segments_; }

 private:
  explicit RateSchedule(std::vector<Segment> segments);

  std::vector<Segment> segments_;
  double seconds_ = 0;  // of all segments
};

}  // namespace moed::load
