#include "tests/fakes/placements.h"

#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

namespace moed {
namespace {

ExpertPlacement::Layer RandomLayer(int32_t num_experts, int32_t num_ranks, PlacementKind kind,
                                   std::mt19937_64& rng) {
  std::vector<int32_t> experts(num_experts);
  std::iota(experts.begin(), experts.end(), 0);
  std::shuffle(experts.begin(), experts.end(), rng);
  std::vector<std::vector<int32_t>> of_rank(num_ranks);
  for (int32_t expert : experts) {
    const int32_t home = static_cast<int32_t>(rng() % static_cast<uint64_t>(num_ranks));
    for (int32_t rank = 0; rank < num_ranks; ++rank) {
      if (rank == home || (kind == PlacementKind::kReplicated && rng() % 3 == 0))
        of_rank[rank].push_back(expert);
    }
  }
  ExpertPlacement::Layer layer;
  layer.rank_slot_begin.push_back(0);
  for (const std::vector<int32_t>& slots : of_rank) {
    layer.slot_to_expert.insert(layer.slot_to_expert.end(), slots.begin(), slots.end());
    layer.rank_slot_begin.push_back(static_cast<int32_t>(layer.slot_to_expert.size()));
  }
  return layer;
}

}  // namespace

ExpertPlacement MakeTestPlacement(PlacementKind kind, const ModelConfig& config, int32_t num_ranks,
                                  uint64_t seed) {
  const int32_t num_layers = static_cast<int32_t>(config.num_moe_layers());
  const int32_t num_experts = static_cast<int32_t>(config.num_experts);
  if (kind == PlacementKind::kLinear) {
    return ExpertPlacement::Linear(num_layers, num_experts, num_ranks);
  }
  if (kind == PlacementKind::kRoundRobin) {
    return ExpertPlacement::RoundRobin(num_layers, num_experts, num_ranks);
  }
  ExpertPlacement placement{.num_ranks = num_ranks, .num_experts = num_experts};
  std::mt19937_64 rng(seed);
  for (int32_t i = 0; i < num_layers; ++i) {
    placement.layers.push_back(RandomLayer(num_experts, num_ranks, kind, rng));
  }
  return placement;
}

}  // namespace moed
