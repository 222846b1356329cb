#pragma once

#include <cstdint>
#include <vector>

namespace moed::load {

enum class GroupKind : uint8_t { kRanks, kExperts };

/// How the rows of prompts spread over groups of experts: the ranks, or with one rank the experts
/// themselves.
struct GroupLoads {
  int num_layers = 0;
  int num_groups = 0;
  std::vector<std::vector<double>>
      of_prompt;  // [prompt][layer * num_groups + group], rows per token
};

/// Mean over the layers of mean / max of rows per group, for prompts mixed by `weights` (one each):
/// 1 when every group gets the same; 0 without rows.
double MixBalancedness(const GroupLoads& loads, const std::vector<double>& weights);

struct Tilt {
  std::vector<double> weights;  // one per prompt, sum 1
  double balancedness = 0;      // of that mix
};

/// The mix of prompts that overloads the group `hot[layer]` of each layer so far that balancedness
/// falls to `target`: weights exp(strength x share on the hot groups), with the least strength that
/// does it. A target that no mix reaches gets the nearest one; one above that of the even mix, the
/// even mix.
Tilt TiltTowards(const GroupLoads& loads, const std::vector<int>& hot, double target);

/// `count` different choices of hot groups, for a load that drifts: of ranks, one rank in all
/// layers; of experts, the busiest ones of those prompts that are least balanced by themselves.
std::vector<std::vector<int>> HotGroups(const GroupLoads& loads, int count, GroupKind kind);

}  // namespace moed::load
