#include "server/metrics/imbalance.h"

#include <algorithm>
#include <numeric>

namespace moed {

ImbalanceMeter::ImbalanceMeter(const ExpertPlacement& placement)
    : num_experts_(static_cast<size_t>(placement.num_experts)) {
  for (const ExpertPlacement::Layer& layer : placement.layers) {
    std::vector<int32_t> num_replicas(num_experts_);
    for (const int32_t expert : layer.slot_to_expert) ++num_replicas[expert];
    Layer& slots_of = layers_.emplace_back();
    for (int32_t rank = 0; rank < placement.num_ranks; ++rank) {
      std::vector<Slot>& slots = slots_of.ranks.emplace_back();
      for (int32_t s = layer.rank_slot_begin[rank]; s < layer.rank_slot_begin[rank + 1]; ++s) {
        const int32_t expert = layer.slot_to_expert[s];
        slots.push_back(
            {.expert = expert, .share = 1.0f / static_cast<float>(num_replicas[expert])});
      }
    }
  }
}

void ImbalanceMeter::Measure(std::span<const int64_t> tokens_per_expert) {
  of_ranks_.clear();
  of_experts_.clear();
  if (tokens_per_expert.size() != layers_.size() * num_experts_) return;
  for (size_t i = 0; i < layers_.size(); ++i) {
    MeasureLayer(layers_[i], tokens_per_expert.subspan(i * num_experts_, num_experts_));
  }
}

void ImbalanceMeter::MeasureLayer(const Layer& layer, std::span<const int64_t> tokens_per_expert) {
  const int64_t sum =
      std::accumulate(tokens_per_expert.begin(), tokens_per_expert.end(), int64_t{0});
  if (sum <= 0) return;
  const auto total = static_cast<double>(sum);
  double most_of_ranks = 0;
  for (const std::vector<Slot>& slots : layer.ranks) {
    double rows = 0;
    for (const Slot& slot : slots) {
      rows += slot.share * static_cast<double>(tokens_per_expert[slot.expert]);
    }
    most_of_ranks = std::max(most_of_ranks, rows);
  }
  of_ranks_.push_back(most_of_ranks * static_cast<double>(layer.ranks.size()) / total);
  const auto most = static_cast<double>(std::ranges::max(tokens_per_expert));
  of_experts_.push_back(most * static_cast<double>(num_experts_) / total);
}

}  // namespace moed
