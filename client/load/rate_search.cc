#include "client/load/rate_search.h"

#include <algorithm>
#include <cmath>

namespace moed::load {

std::optional<double> RateSearch::Next() const {
  return IsOver() ? std::nullopt : std::optional<double>(next_);
}

void RateSearch::Report(Trial trial) {
  ++num_trials_;
  if (trial == Trial::kMet) {
    best_ = std::max(best_.value_or(next_), next_);
  } else {
    worst_ = std::min(worst_.value_or(next_), next_);
  }
  if (!worst_.has_value()) {
    next_ *= 2;
  } else if (!best_.has_value()) {
    next_ = *worst_ / 2;
  } else {
    next_ = std::sqrt(*best_ * *worst_);
  }
  if (!params_.whole_numbers) return;
  next_ = std::round(next_);
  if (best_.has_value() && worst_.has_value() && *worst_ - *best_ > 1) {
    next_ = std::clamp(next_, *best_ + 1, *worst_ - 1);
  }
}

bool RateSearch::IsOver() const {
  if (num_trials_ >= params_.max_trials) return true;
  if (params_.whole_numbers && next_ < 1) return true;
  if (!best_.has_value() || !worst_.has_value()) return false;
  if (*best_ >= *worst_) return true;  // the condition does not depend on the level alone
  if (params_.whole_numbers && *worst_ - *best_ <= 1) return true;
  return *worst_ / *best_ <= 1 + params_.tolerance;
}

}  // namespace moed::load
