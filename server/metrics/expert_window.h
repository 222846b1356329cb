#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/time/time.h"

namespace moed {

/// The expert load of the recent past, from totals that are looked at now and then.
///
/// Owned by the state metrics and guarded by their mutex. Nothing is paid per step: looking is all
/// the work.
class ExpertWindow {
 public:
  /// A window lasts `length`, or until the first look after that.
  explicit ExpertWindow(absl::Duration length) : length_(length) {}

  /// Takes in totals; they may start anew from zero (a reset), but always have the same size.
  /// Returns tokens per expert of the last full window, or of all that was seen before there is
  /// one. Valid until the next look.
  std::span<const int64_t> Look(std::span<const int64_t> totals, absl::Time now);

 private:
  const absl::Duration length_;
  absl::Time began_ = absl::InfinitePast();
  bool is_full_ = false;           // recent_ is a whole window
  std::vector<int64_t> at_start_;  // totals when the window began
  std::vector<int64_t> recent_;
};

}  // namespace moed
