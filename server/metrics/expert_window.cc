#include "server/metrics/expert_window.h"

#include <algorithm>

namespace moed {

std::span<const int64_t> ExpertWindow::Look(std::span<const int64_t> totals, absl::Time now) {
  const bool is_first = began_ == absl::InfinitePast();
  if (is_first) at_start_.assign(totals.size(), 0);
  at_start_.resize(totals.size());
  const bool was_reset = !std::ranges::equal(totals, at_start_, std::greater_equal<>());
  if (was_reset) std::ranges::fill(at_start_, 0);
  const bool is_over = !is_first && now - began_ >= length_;
  if (is_over || !is_full_ || was_reset) {
    recent_.resize(totals.size());
    std::ranges::transform(totals, at_start_, recent_.begin(), std::minus<>());
  }
  if (is_first) began_ = now;
  if (!is_over) return recent_;
  is_full_ = true;
  began_ = now;
  at_start_.assign(totals.begin(), totals.end());
  return recent_;
}

}  // namespace moed
