#pragma once

#include <cstdint>

#include "engine/api/engine.h"

namespace moed {

/// What the operator sees of one rank beside its counters. A value.
struct RankView {
  EngineInfo info;
  int64_t pid = 0;
  bool up = false;
  double weights_loaded_ratio = 0;  // 1 once it serves
  int32_t num_restarts = 0;
};

}  // namespace moed
