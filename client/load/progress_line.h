#pragma once

#include <cstdint>
#include <string>

#include "client/load/stream/stream_worker.h"

namespace moed::load {

/// What a run does now, in one line: made from what has changed since the line before.
///
/// Used by one thread.
class ProgressLine {
 public:
  explicit ProgressLine(const LiveCounts& live) : live_(live) {}

  std::string At(double seconds);

 private:
  const LiveCounts& live_;
  double last_seconds_ = 0;
  int64_t last_ended_ = 0;
  int64_t last_tokens_ = 0;
  int64_t last_first_tokens_ = 0;
  int64_t last_ttft_sum_ns_ = 0;
};

}  // namespace moed::load
