#include "server/placement/load_placement.h"

#include <array>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "config/base/status_macros.h"
#include "config/json_reader.h"
#include "config/text_file.h"

namespace moed {
namespace {

absl::StatusOr<ExpertPlacement::Layer> ReadLayer(const JsonReader& layers, const std::string& key,
                                                 int64_t num_slots,
                                                 const ExpertPlacement& placement) {
  const std::vector<int64_t> experts = layers.IntList(key, {0, placement.num_experts - 1});
  MOED_RETURN_IF_ERROR(layers.status());
  if (static_cast<int64_t>(experts.size()) != num_slots) {
    return absl::InvalidArgumentError(absl::StrFormat("%s: expected num_slots = %d experts, got %d",
                                                      layers.Where(key), num_slots,
                                                      experts.size()));
  }
  ExpertPlacement::Layer layer;
  layer.slot_to_expert.assign(experts.begin(), experts.end());
  for (int64_t rank = 0; rank <= placement.num_ranks; ++rank) {
    // The first slot s with s * num_ranks / num_slots >= rank.
    const int64_t begin = (rank * num_slots + placement.num_ranks - 1) / placement.num_ranks;
    layer.rank_slot_begin.push_back(static_cast<int32_t>(begin));
  }
  return layer;
}

absl::StatusOr<ExpertPlacement> LoadPlacementFile(const std::string& path, int32_t num_moe_layers,
                                                  ExpertPlacement placement) {
  MOED_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path));
  MOED_ASSIGN_OR_RETURN(const JsonReader json, JsonReader::Parse(text, path));
  json.RefuseUnknownKeys(std::array<absl::string_view, 2>{"num_slots", "layers"});
  const int64_t num_slots = json.Int(
      "num_slots", {placement.num_experts, int64_t{placement.num_experts} * placement.num_ranks});
  const std::optional<JsonReader> layers = json.Object("layers");
  MOED_RETURN_IF_ERROR(json.status());
  const size_t num_layers = layers ? layers->Keys().size() : 0;
  if (num_layers != static_cast<size_t>(num_moe_layers)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: expected one entry for each of %d MoE layers, got %d",
                        json.Where("layers"), num_moe_layers, num_layers));
  }
  for (int32_t layer = 0; layer < num_moe_layers; ++layer) {
    MOED_ASSIGN_OR_RETURN(placement.layers.emplace_back(),
                          ReadLayer(*layers, absl::StrCat(layer), num_slots, placement));
  }
  if (absl::Status status = placement.Validate(); !status.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", status.message()));
  }
  return placement;
}

}  // namespace

absl::StatusOr<ExpertPlacement> LoadPlacement(const std::string& spec, int32_t num_moe_layers,
                                              int32_t num_experts, int32_t num_ranks) {
  if (spec == "linear") return ExpertPlacement::Linear(num_moe_layers, num_experts, num_ranks);
  if (spec == "round_robin") {
    return ExpertPlacement::RoundRobin(num_moe_layers, num_experts, num_ranks);
  }
  ExpertPlacement placement;
  placement.num_ranks = num_ranks;
  placement.num_experts = num_experts;
  return LoadPlacementFile(spec, num_moe_layers, std::move(placement));
}

}  // namespace moed
