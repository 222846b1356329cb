#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"

namespace moed {

/// Where every physical copy of every expert lives: layer -> expert_slot -> (expert_id, rank).
///
/// A value: it is built by server/placement (or by a test), sent to every rank, and then never
/// changes; a new placement is a new value with a higher epoch. Slots of a layer are ordered by
/// rank, so a rank's slots are the contiguous range [rank_slot_begin[r], rank_slot_begin[r + 1]).
struct ExpertPlacement {
  struct Layer {
    std::vector<int32_t> slot_to_expert;   // [num_slots] expert_id held by the slot
    std::vector<int32_t> rank_slot_begin;  // [num_ranks + 1] exclusive prefix sum of slots per rank

    bool operator==(const Layer&) const = default;
  };

  uint64_t epoch = 0;
  int32_t num_ranks = 1;
  int32_t num_experts = 0;
  std::vector<Layer> layers;  // [num_moe_layers]: only the layers that are MoE, in model order

  bool operator==(const ExpertPlacement&) const = default;

  /// INVALID_ARGUMENT naming the layer and the slot or expert at fault, unless every layer covers
  /// every expert at least once, no rank holds one expert twice, and every index is in range.
  absl::Status Validate() const;

  /// expert_id e lives on rank e * num_ranks / num_experts (contiguous, as even as it can be).
  static ExpertPlacement Linear(int32_t num_moe_layers, int32_t num_experts, int32_t num_ranks);

  /// expert_id e lives on rank e % num_ranks.
  static ExpertPlacement RoundRobin(int32_t num_moe_layers, int32_t num_experts, int32_t num_ranks);
};

}  // namespace moed
