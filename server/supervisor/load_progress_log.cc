#include "server/supervisor/load_progress_log.h"

#include <algorithm>

namespace moed {

bool LoadProgressLog::ShouldLog(int64_t done_bytes, int64_t total_bytes, absl::Time now) {
  const int64_t tenth = static_cast<int64_t>(LoadedRatio(done_bytes, total_bytes) * 10);
  if (tenth <= logged_tenth_ && now - logged_at_ < absl::Seconds(1)) return false;
  logged_tenth_ = tenth;
  logged_at_ = now;
  return true;
}

double LoadedRatio(int64_t done_bytes, int64_t total_bytes) {
  if (total_bytes <= 0) return 1;
  return std::clamp(static_cast<double>(done_bytes) / static_cast<double>(total_bytes), 0.0, 1.0);
}

}  // namespace moed
