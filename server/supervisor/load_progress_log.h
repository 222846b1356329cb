#pragma once

#include <cstdint>

#include "absl/time/time.h"

namespace moed {

/// Decides which reports of one rank's load progress are worth a line: another tenth, a second
/// without one, and the end. Used by one thread.
class LoadProgressLog {
 public:
  bool ShouldLog(int64_t done_bytes, int64_t total_bytes, absl::Time now);

 private:
  int64_t logged_tenth_ = -1;
  absl::Time logged_at_ = absl::InfinitePast();
};

/// done / total, 1 for nothing to load; within [0, 1] whatever an engine reports.
double LoadedRatio(int64_t done_bytes, int64_t total_bytes);

}  // namespace moed
