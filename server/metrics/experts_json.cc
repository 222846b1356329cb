#include "server/metrics/experts_json.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace moed {
namespace {

std::string SlotsJson(const ExpertPlacement::Layer& layer) {
  std::string out;
  for (size_t rank = 0; rank + 1 < layer.rank_slot_begin.size(); ++rank) {
    for (int32_t s = layer.rank_slot_begin[rank]; s < layer.rank_slot_begin[rank + 1]; ++s) {
      absl::StrAppend(&out, out.empty() ? "" : ",", "[", layer.slot_to_expert[s], ",", rank, "]");
    }
  }
  return out;
}

}  // namespace

std::string ExpertsJson(const ServerStats& stats, const ExpertPlacement& placement,
                        std::span<const int32_t> moe_layers) {
  const auto num_experts = static_cast<size_t>(placement.num_experts);
  const size_t num_layers = std::min(placement.layers.size(), moe_layers.size());
  std::vector<int64_t> tokens = stats.tokens_per_expert;
  tokens.resize(placement.layers.size() * num_experts);  // nothing is counted before the first step
  std::string out = absl::StrCat("{\"num_experts\":", num_experts, ",\"layers\":[");
  for (size_t i = 0; i < num_layers; ++i) {
    const std::span<const int64_t> of_layer(tokens.data() + i * num_experts, num_experts);
    absl::StrAppend(&out, i > 0 ? "," : "", "{\"layer\":", moe_layers[i], ",\"tokens\":[",
                    absl::StrJoin(of_layer, ","), "],\"slots\":[", SlotsJson(placement.layers[i]),
                    "]}");
  }
  return out + "]}\n";
}

}  // namespace moed
