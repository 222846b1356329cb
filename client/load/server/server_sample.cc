#include "client/load/server/server_sample.h"

#include <algorithm>
#include <numeric>

namespace moed::load {

ExpertCounts Since(const ExpertCounts& begin, const ExpertCounts& end) {
  ExpertCounts counts = end;
  if (begin.layers != end.layers || begin.num_experts != end.num_experts) return counts;
  for (size_t layer = 0; layer < counts.rows.size(); ++layer) {
    for (size_t expert = 0; expert < counts.rows[layer].size(); ++expert) {
      const int64_t rows = counts.rows[layer][expert] - begin.rows[layer][expert];
      if (rows < 0) return end;  // the server has started to count anew
      counts.rows[layer][expert] = rows;
    }
  }
  return counts;
}

std::vector<double> RowsPerRank(const ExpertCounts& counts, size_t layer) {
  const auto num_ranks = static_cast<size_t>(counts.num_ranks);
  std::vector<double> rows(num_ranks);
  for (size_t expert = 0; expert < counts.rows[layer].size(); ++expert) {
    for (size_t rank = 0; rank < num_ranks; ++rank) {
      rows[rank] += static_cast<double>(counts.rows[layer][expert]) *
                    counts.shares[layer][expert * num_ranks + rank];
    }
  }
  return rows;
}

double Balancedness(const std::vector<double>& rows) {
  if (rows.empty()) return 0;
  const double most = *std::max_element(rows.begin(), rows.end());
  const double sum = std::accumulate(rows.begin(), rows.end(), 0.0);
  return most > 0 ? sum / static_cast<double>(rows.size()) / most : 0;
}

LayerBalancedness MeanOverLayers(const ExpertCounts& counts) {
  LayerBalancedness mean;
  const double num_layers = static_cast<double>(std::max<size_t>(1, counts.rows.size()));
  for (size_t layer = 0; layer < counts.rows.size(); ++layer) {
    const std::vector<double> of_experts(counts.rows[layer].begin(), counts.rows[layer].end());
    mean.num_rows += std::accumulate(of_experts.begin(), of_experts.end(), 0.0);
    mean.of_ranks += Balancedness(RowsPerRank(counts, layer)) / num_layers;
    mean.of_experts += Balancedness(of_experts) / num_layers;
  }
  return mean;
}

}  // namespace moed::load
