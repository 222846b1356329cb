#include "engine/api/expert_placement.h"

#include <cstddef>

#include "absl/strings/str_format.h"
#include "config/base/check.h"
#include "config/base/status_macros.h"

namespace moed {
namespace {

using Layer = ExpertPlacement::Layer;

absl::Status CheckSlotRanges(const Layer& layer, size_t layer_index, int32_t num_ranks) {
  const std::vector<int32_t>& begin = layer.rank_slot_begin;
  if (begin.size() != static_cast<size_t>(num_ranks) + 1) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "expert placement: layer %d: rank_slot_begin has %d entries, expected num_ranks + 1 = %d",
        layer_index, begin.size(), int64_t{num_ranks} + 1));
  }
  const auto num_slots = static_cast<int32_t>(layer.slot_to_expert.size());
  if (begin.front() != 0 || begin.back() != num_slots) {
    return absl::InvalidArgumentError(
        absl::StrFormat("expert placement: layer %d: rank_slot_begin runs from %d to %d, expected "
                        "from 0 to the number of slots %d",
                        layer_index, begin.front(), begin.back(), num_slots));
  }
  for (int32_t rank = 0; rank < num_ranks; ++rank) {
    if (begin[rank] > begin[rank + 1]) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "expert placement: layer %d: rank %d's slots begin at %d and end before that, at %d",
          layer_index, rank, begin[rank], begin[rank + 1]));
    }
  }
  return absl::OkStatus();
}

// Requires slot ranges that CheckSlotRanges accepted.
absl::Status CheckExperts(const Layer& layer, size_t layer_index, int32_t num_experts) {
  if (layer.slot_to_expert.size() < static_cast<size_t>(num_experts)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("expert placement: layer %d: %d slots cannot hold %d experts", layer_index,
                        layer.slot_to_expert.size(), num_experts));
  }
  std::vector<int32_t> last_rank_of(num_experts, -1);
  for (int32_t rank = 0; rank + 1 < static_cast<int32_t>(layer.rank_slot_begin.size()); ++rank) {
    for (int32_t slot = layer.rank_slot_begin[rank]; slot < layer.rank_slot_begin[rank + 1];
         ++slot) {
      const int32_t expert = layer.slot_to_expert[slot];
      if (expert < 0 || expert >= num_experts) {
        return absl::InvalidArgumentError(
            absl::StrFormat("expert placement: layer %d: slot %d holds expert %d, expected 0 to %d",
                            layer_index, slot, expert, num_experts - 1));
      }
      if (last_rank_of[expert] == rank) {
        return absl::InvalidArgumentError(
            absl::StrFormat("expert placement: layer %d: slot %d gives rank %d a second copy of "
                            "expert %d, expected at most one per rank",
                            layer_index, slot, rank, expert));
      }
      last_rank_of[expert] = rank;
    }
  }
  for (int32_t expert = 0; expert < num_experts; ++expert) {
    if (last_rank_of[expert] < 0) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "expert placement: layer %d: no slot holds expert %d", layer_index, expert));
    }
  }
  return absl::OkStatus();
}

ExpertPlacement SameForAllLayers(int32_t num_moe_layers, int32_t num_experts, int32_t num_ranks,
                                 const Layer& layer) {
  ExpertPlacement placement;
  placement.num_ranks = num_ranks;
  placement.num_experts = num_experts;
  placement.layers.assign(num_moe_layers, layer);
  return placement;
}

}  // namespace

absl::Status ExpertPlacement::Validate() const {
  if (num_ranks < 1 || num_experts < 1) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "expert placement: num_ranks is %d and num_experts is %d, expected at least 1 of each",
        num_ranks, num_experts));
  }
  for (size_t i = 0; i < layers.size(); ++i) {
    MOED_RETURN_IF_ERROR(CheckSlotRanges(layers[i], i, num_ranks));
    MOED_RETURN_IF_ERROR(CheckExperts(layers[i], i, num_experts));
  }
  return absl::OkStatus();
}

ExpertPlacement ExpertPlacement::Linear(int32_t num_moe_layers, int32_t num_experts,
                                        int32_t num_ranks) {
  MOED_CHECK(num_moe_layers >= 0 && num_experts >= 1 && num_ranks >= 1);
  Layer layer;
  layer.rank_slot_begin.assign(num_ranks + 1, 0);
  for (int32_t expert = 0; expert < num_experts; ++expert) {
    const auto rank = static_cast<int32_t>(int64_t{expert} * num_ranks / num_experts);
    layer.slot_to_expert.push_back(expert);
    ++layer.rank_slot_begin[rank + 1];
  }
  for (int32_t rank = 0; rank < num_ranks; ++rank) {
    layer.rank_slot_begin[rank + 1] += layer.rank_slot_begin[rank];
  }
  return SameForAllLayers(num_moe_layers, num_experts, num_ranks, layer);
}

ExpertPlacement ExpertPlacement::RoundRobin(int32_t num_moe_layers, int32_t num_experts,
                                            int32_t num_ranks) {
  MOED_CHECK(num_moe_layers >= 0 && num_experts >= 1 && num_ranks >= 1);
  Layer layer;
  layer.rank_slot_begin.push_back(0);
  for (int32_t rank = 0; rank < num_ranks; ++rank) {
    for (int32_t expert = rank; expert < num_experts; expert += num_ranks) {
      layer.slot_to_expert.push_back(expert);
    }
    layer.rank_slot_begin.push_back(static_cast<int32_t>(layer.slot_to_expert.size()));
  }
  return SameForAllLayers(num_moe_layers, num_experts, num_ranks, layer);
}

}  // namespace moed
