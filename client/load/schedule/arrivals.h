#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "client/load/schedule/rate_schedule.h"
#include "client/load/stats/random.h"

namespace moed::load {

/// When requests are to be sent: seconds since the start of the run, in rising order.
class ArrivalSource {
 public:
  virtual ~ArrivalSource() = default;

  /// Nothing after the last one.
  virtual std::optional<double> Next() = 0;
};

/// How the gaps between arrivals vary, at a mean of one.
enum class GapShape : uint8_t { kConstant, kPoisson, kGamma };

/// Arrivals that follow a rate schedule. Gaps of mean one are drawn and carried through the inverse
/// of the schedule's integral, so that ramps are exact; Poisson arrivals stay Poisson.
///
/// Owned by one run; used by its pacing thread.
class RateArrivals final : public ArrivalSource {
 public:
  struct Params {
    RateSchedule schedule;
    GapShape shape = GapShape::kPoisson;
    double burstiness = 1;  // of gamma: below 1 in bursts, 1 is Poisson, above 1 more even
    uint64_t seed = 0;
  };

  explicit RateArrivals(Params params);
  std::optional<double> Next() override;

 private:
  double NextGap();

  const Params params_;
  Random random_;
  double amount_ = 0;  // the integral of the rate at the last arrival
  bool is_first_ = true;
};

/// Arrivals at given times, such as those of a trace.
class FixedArrivals final : public ArrivalSource {
 public:
  /// `seconds` in rising order.
  explicit FixedArrivals(std::vector<double> seconds) : seconds_(std::move(seconds)) {}
  std::optional<double> Next() override;

 private:
  const std::vector<double> seconds_;
  size_t next_ = 0;
};

/// When the slots of a closed loop come into being so that there are as many as `levels` says
/// (rounded); where it falls, slots end by themselves, after their requests. `ramp_up_s` spreads
/// those of the start.
std::vector<double> SlotStarts(const RateSchedule& levels, double ramp_up_s);

}  // namespace moed::load
