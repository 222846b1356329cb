#include "client/load/schedule/arrivals.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <utility>

namespace moed::load {

RateArrivals::RateArrivals(Params params)
    : params_(std::move(params)), random_(params_.seed, /*index=*/0x617272) {}

std::optional<double> RateArrivals::Next() {
  amount_ += NextGap();
  return params_.schedule.TimeOf(amount_);
}

double RateArrivals::NextGap() {
  const bool is_first = std::exchange(is_first_, false);
  if (params_.shape == GapShape::kConstant) return is_first ? 0 : 1;
  if (params_.shape == GapShape::kPoisson) return -std::log1p(-random_.Uniform());
  std::gamma_distribution<double> gamma(params_.burstiness, 1 / params_.burstiness);
  return gamma(random_);
}

std::optional<double> FixedArrivals::Next() {
  if (next_ == seconds_.size()) return std::nullopt;
  return seconds_[next_++];
}

std::vector<double> SlotStarts(const RateSchedule& levels, double ramp_up_s) {
  constexpr double kResolution = 0.01;
  constexpr double kMaxSeconds = 1e5;
  std::vector<double> starts;
  const auto first = static_cast<size_t>(std::llround(levels.LevelAt(0)));
  for (size_t i = 0; i < first; ++i) {
    starts.push_back(ramp_up_s * static_cast<double>(i) / static_cast<double>(first));
  }
  if (levels.segments().size() == 1 && !std::isfinite(levels.seconds())) return starts;
  double end = 0;  // of the part that changes
  for (const RateSchedule::Segment& segment : levels.segments()) {
    end += std::isfinite(segment.seconds) ? segment.seconds : kResolution;
  }
  size_t current = first;
  for (double t = 0; t <= std::min(end, kMaxSeconds); t += kResolution) {
    const auto level = static_cast<size_t>(std::llround(levels.LevelAt(t)));
    for (; current < level; ++current) starts.push_back(t);
    current = level;
  }
  std::sort(starts.begin(), starts.end());
  return starts;
}

}  // namespace moed::load
