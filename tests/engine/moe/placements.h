#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

#include "engine/api/expert_placement.h"

namespace moed {

/// The slots of each rank, as lists of experts, in one layer.
inline ExpertPlacement::Layer MakeLayer(const std::vector<std::vector<int32_t>>& experts_of_rank) {
  ExpertPlacement::Layer layer;
  layer.rank_slot_begin.push_back(0);
  for (const std::vector<int32_t>& experts : experts_of_rank) {
    layer.slot_to_expert.insert(layer.slot_to_expert.end(), experts.begin(), experts.end());
    layer.rank_slot_begin.push_back(static_cast<int32_t>(layer.slot_to_expert.size()));
  }
  return layer;
}

/// Every expert on a random rank, then about as many random copies again; ranks may end up with no
/// slot.
inline ExpertPlacement RandomPlacement(uint64_t seed, int32_t num_moe_layers, int32_t num_experts,
                                       int32_t num_ranks) {
  std::mt19937_64 rng(seed);
  ExpertPlacement placement{
      .epoch = 0, .num_ranks = num_ranks, .num_experts = num_experts, .layers = {}};
  for (int32_t layer = 0; layer < num_moe_layers; ++layer) {
    std::vector<std::vector<int32_t>> experts_of_rank(num_ranks);
    const auto add = [&](int32_t expert) {
      std::vector<int32_t>& experts = experts_of_rank[rng() % num_ranks];
      if (std::find(experts.begin(), experts.end(), expert) != experts.end()) return;
      experts.insert(experts.begin() + static_cast<int64_t>(rng() % (experts.size() + 1)), expert);
    };
    for (int32_t expert = 0; expert < num_experts; ++expert) add(expert);
    for (int32_t copy = 0; copy < num_experts; ++copy)
      add(static_cast<int32_t>(rng() % num_experts));
    placement.layers.push_back(MakeLayer(experts_of_rank));
  }
  return placement;
}

}  // namespace moed
