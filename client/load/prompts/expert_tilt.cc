#include "client/load/prompts/expert_tilt.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "config/base/check.h"

namespace moed::load {
namespace {

constexpr double kMaxStrength = 200;

size_t At(const GroupLoads& loads, int layer, int group) {
  return static_cast<size_t>(layer) * static_cast<size_t>(loads.num_groups) +
         static_cast<size_t>(group);
}

// Mean over the layers of the part of a prompt's rows that its hot groups get.
double HotShare(const GroupLoads& loads, size_t prompt, const std::vector<int>& hot) {
  const std::vector<double>& rows = loads.of_prompt[prompt];
  double share = 0;
  for (int layer = 0; layer < loads.num_layers; ++layer) {
    const auto begin = rows.begin() + static_cast<std::ptrdiff_t>(At(loads, layer, 0));
    const double sum = std::accumulate(begin, begin + loads.num_groups, 0.0);
    if (sum > 0) share += rows[At(loads, layer, hot[static_cast<size_t>(layer)])] / sum;
  }
  return share / std::max(1, loads.num_layers);
}

std::vector<double> Weights(const std::vector<double>& scores, double strength) {
  const double most = *std::max_element(scores.begin(), scores.end());
  std::vector<double> weights;
  double sum = 0;
  for (const double score : scores) {
    weights.push_back(std::exp(strength * (score - most)));
    sum += weights.back();
  }
  for (double& weight : weights) weight /= sum;
  return weights;
}

// Shares as distances from their mean in standard deviations, so that a strength means the same
// whatever the model.
std::vector<double> Scores(const GroupLoads& loads, const std::vector<int>& hot) {
  std::vector<double> scores;
  for (size_t i = 0; i < loads.of_prompt.size(); ++i) scores.push_back(HotShare(loads, i, hot));
  const auto n = static_cast<double>(scores.size());
  const double mean = std::accumulate(scores.begin(), scores.end(), 0.0) / n;
  double variance = 0;
  for (const double score : scores) variance += (score - mean) * (score - mean) / n;
  const double deviation = variance > 0 ? std::sqrt(variance) : 1;
  for (double& score : scores) score = (score - mean) / deviation;
  return scores;
}

double OwnBalancedness(const GroupLoads& loads, size_t prompt) {
  std::vector<double> weights(loads.of_prompt.size());
  weights[prompt] = 1;
  return MixBalancedness(loads, weights);
}

std::vector<int> BusiestGroups(const GroupLoads& loads, size_t prompt) {
  std::vector<int> hot;
  for (int layer = 0; layer < loads.num_layers; ++layer) {
    const auto begin =
        loads.of_prompt[prompt].begin() + static_cast<std::ptrdiff_t>(At(loads, layer, 0));
    hot.push_back(static_cast<int>(std::max_element(begin, begin + loads.num_groups) - begin));
  }
  return hot;
}

}  // namespace

double MixBalancedness(const GroupLoads& loads, const std::vector<double>& weights) {
  double sum = 0;
  for (int layer = 0; layer < loads.num_layers; ++layer) {
    double total = 0;
    double most = 0;
    for (int group = 0; group < loads.num_groups; ++group) {
      double rows = 0;
      for (size_t i = 0; i < weights.size(); ++i) {
        rows += weights[i] * loads.of_prompt[i][At(loads, layer, group)];
      }
      total += rows;
      most = std::max(most, rows);
    }
    if (most > 0) sum += total / loads.num_groups / most;
  }
  return loads.num_layers > 0 ? sum / loads.num_layers : 0;
}

Tilt TiltTowards(const GroupLoads& loads, const std::vector<int>& hot, double target) {
  MOED_CHECK(!loads.of_prompt.empty() && std::ssize(hot) == loads.num_layers);
  const std::vector<double> scores = Scores(loads, hot);
  const auto tilt_of = [&](double strength) {
    Tilt tilt{.weights = Weights(scores, strength)};
    tilt.balancedness = MixBalancedness(loads, tilt.weights);
    return tilt;
  };
  // Balancedness need not fall all the way: look for the first strength on a grid, then refine.
  double below = 0;
  Tilt best = tilt_of(0);
  if (best.balancedness <= target) return best;
  for (double strength = 0.05; strength <= kMaxStrength; strength *= 1.2) {
    const Tilt tilt = tilt_of(strength);
    if (tilt.balancedness < best.balancedness) best = tilt;
    if (tilt.balancedness > target) {
      below = strength;
      continue;
    }
    double above = strength;
    for (int i = 0; i < 50; ++i) {
      const double middle = (below + above) / 2;
      (tilt_of(middle).balancedness > target ? below : above) = middle;
    }
    return tilt_of(above);
  }
  return best;
}

std::vector<std::vector<int>> HotGroups(const GroupLoads& loads, int count, GroupKind kind) {
  std::vector<std::vector<int>> hot;
  if (kind == GroupKind::kRanks) {
    for (int group = 0; group < std::min(count, loads.num_groups); ++group) {
      hot.emplace_back(static_cast<size_t>(loads.num_layers), group);
    }
    return hot;
  }
  std::vector<double> balancedness;
  for (size_t i = 0; i < loads.of_prompt.size(); ++i) {
    balancedness.push_back(OwnBalancedness(loads, i));
  }
  std::vector<size_t> order(loads.of_prompt.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(),
            [&](size_t a, size_t b) { return balancedness[a] < balancedness[b]; });
  for (const size_t prompt : order) {
    const std::vector<int> groups = BusiestGroups(loads, prompt);
    if (std::ssize(hot) == count) break;
    if (std::find(hot.begin(), hot.end(), groups) == hot.end()) hot.push_back(groups);
  }
  return hot;
}

}  // namespace moed::load
