#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/api/expert_placement.h"

namespace moed {

/// How unevenly a step's rows fell on ranks and on experts, layer by layer, as max / mean: 1 is
/// even, the number of ranks (or experts) is all on one.
///
/// Made for every step: whatever depends on the placement alone is computed once. Owned by the step
/// metrics; step loop's thread.
class ImbalanceMeter {
 public:
  explicit ImbalanceMeter(const ExpertPlacement& placement);

  /// `tokens_per_expert` is [num_moe_layers * num_experts]; else nothing is measured. Layers
  /// without rows are left out. An expert's rows are taken as spread evenly over its replicas.
  void Measure(std::span<const int64_t> tokens_per_expert);

  /// One value for each layer with rows, of the last Measure.
  std::span<const double> of_ranks() const { return of_ranks_; }
  std::span<const double> of_experts() const { return of_experts_; }

 private:
  struct Slot {
    int32_t expert = 0;
    float share = 1;  // of the expert's rows
  };
  struct Layer {
    std::vector<std::vector<Slot>> ranks;  // [num_ranks] the slots of each
  };

  void MeasureLayer(const Layer& layer, std::span<const int64_t> tokens_per_expert);

  const size_t num_experts_;
  std::vector<Layer> layers_;
  std::vector<double> of_ranks_;
  std::vector<double> of_experts_;
};

}  // namespace moed
