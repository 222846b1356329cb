#include "server/placement/balancedness.h"

#include <algorithm>
#include <numeric>

#include "config/base/check.h"

namespace moed {

std::vector<double> RowsPerRank(const ExpertPlacement::Layer& layer,
                                std::span<const int64_t> tokens_per_expert) {
  std::vector<int32_t> num_replicas(tokens_per_expert.size());
  for (const int32_t expert : layer.slot_to_expert) ++num_replicas.at(expert);
  std::vector<double> rows(layer.rank_slot_begin.size() - 1);
  for (size_t rank = 0; rank < rows.size(); ++rank) {
    for (int32_t slot = layer.rank_slot_begin[rank]; slot < layer.rank_slot_begin[rank + 1];
         ++slot) {
      const int32_t expert = layer.slot_to_expert[slot];
      rows[rank] += static_cast<double>(tokens_per_expert[expert]) / num_replicas[expert];
    }
  }
  return rows;
}

double Balancedness(std::span<const double> rows_per_rank) {
  if (rows_per_rank.empty()) return 0;
  const double max = std::ranges::max(rows_per_rank);
  const double sum = std::accumulate(rows_per_rank.begin(), rows_per_rank.end(), 0.0);
  return max > 0 ? sum / static_cast<double>(rows_per_rank.size()) / max : 0;
}

std::vector<double> LayerBalancedness(const ExpertPlacement& placement,
                                      std::span<const int64_t> tokens_per_expert) {
  const auto num_experts = static_cast<size_t>(placement.num_experts);
  MOED_CHECK(tokens_per_expert.size() == placement.layers.size() * num_experts);
  std::vector<double> balancedness;
  for (size_t i = 0; i < placement.layers.size(); ++i) {
    balancedness.push_back(Balancedness(
        RowsPerRank(placement.layers[i], tokens_per_expert.subspan(i * num_experts, num_experts))));
  }
  return balancedness;
}

}  // namespace moed
