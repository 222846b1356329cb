#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "moed/v1/admin.pb.h"

namespace moed {

/// What a server said at one moment.
struct TopSnapshot {
  double seconds = 0;  // on a clock that only goes on
  v1::GetStatusResponse status;
  v1::GetExpertsResponse experts;
};

/// One layer's experts between two snapshots.
struct LayerLoad {
  int32_t layer = 0;           // index in the model
  std::vector<double> tokens;  // [num_experts]
  double balancedness = 0;     // of the ranks' rows, from the placement; 0 without traffic
};

/// One rank between two snapshots.
struct RankRates {
  double rows = 0;        // per second, computed by its experts
  double busy_ratio = 0;  // part of the time in which it computed or waited in a step
  double wait_ratio = 0;  // part of its steps spent waiting for other ranks
};

/// What happened between two snapshots. A value.
struct TopRates {
  double seconds = 0;           // between the two
  double generated_tokens = 0;  // per second, as the next three
  double prompt_tokens = 0;
  double finished_requests = 0;
  double steps = 0;
  double exchange_bytes = 0;
  double step_seconds = 0;     // of one step
  double plan_seconds = 0;     // of one step
  double cache_hit_ratio = 0;  // of the prompt tokens looked up
  double balancedness = 0;     // mean / max of rows per rank; 0 without traffic
  std::vector<std::pair<std::string, double>> stages;  // name, part of the time of steps
  std::vector<RankRates> ranks;
  std::vector<LayerLoad> layers;
};

/// From `before` to `now`. A total that has become smaller was reset: all of it is new. Pure.
TopRates RatesBetween(const TopSnapshot& before, const TopSnapshot& now);

}  // namespace moed
