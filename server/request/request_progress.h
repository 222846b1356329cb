#pragma once

#include <cstdint>

#include "absl/time/time.h"

namespace moed {

/// What the scheduler has done for a request so far.
struct RequestProgress {
  absl::Time first_scheduled = absl::InfiniteFuture();  // infinite while it only waits
  int32_t num_cached_tokens = 0;  // prompt tokens the first sequence found in the prefix cache
  int32_t num_preemptions = 0;

  bool started() const { return first_scheduled != absl::InfiniteFuture(); }
};

}  // namespace moed
