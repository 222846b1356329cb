#include "client/load/progress_line.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "client/text_table.h"

namespace moed::load {

std::string ProgressLine::At(double seconds) {
  const double elapsed = std::max(1e-3, seconds - std::exchange(last_seconds_, seconds));
  const int64_t sent = live_.num_sent;
  const int64_t ended = live_.num_ended;
  const int64_t tokens = live_.num_tokens;
  const int64_t first_tokens = live_.num_first_tokens;
  const int64_t ttft_sum_ns = live_.ttft_sum_ns;
  const auto per_second = [&](int64_t now, int64_t& last) {
    return static_cast<double>(now - std::exchange(last, now)) / elapsed;
  };
  const double request_rate = per_second(ended, last_ended_);
  const double token_rate = per_second(tokens, last_tokens_);
  const int64_t num_new = first_tokens - std::exchange(last_first_tokens_, first_tokens);
  const int64_t ttft_ns = ttft_sum_ns - std::exchange(last_ttft_sum_ns_, ttft_sum_ns);
  std::string ttft = "-";
  if (num_new > 0) {
    ttft = FormatSeconds(static_cast<double>(ttft_ns) / static_cast<double>(num_new) * 1e-9);
  }
  return absl::StrFormat(
      "%6.1f s  %d sent, %d in flight, %d failed  %.1f requests/s  %.0f tokens/s  TTFT %s", seconds,
      sent, sent - ended, static_cast<int64_t>(live_.num_failed), request_rate, token_rate, ttft);
}

}  // namespace moed::load
