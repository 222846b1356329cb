#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/api/expert_placement.h"

namespace moed {

/// The slots of every expert of one layer: ExpertPlacement::Layer turned around.
///
/// A value; built once per layer and never changed.
class ExpertSlots {
 public:
  /// `layer` must be valid (ExpertPlacement::Validate).
  ExpertSlots(const ExpertPlacement::Layer& layer, int32_t num_experts);

  int32_t num_experts() const { return static_cast<int32_t>(begin_.size()) - 1; }
  int32_t rank_of(int32_t slot) const { return slot_rank_[slot]; }
  /// Slots of `rank` are [slot_begin(rank), slot_begin(rank + 1)).
  int32_t slot_begin(int32_t rank) const { return rank_slot_begin_[rank]; }

  /// The slot that computes choice k of the token in row `token` of its home rank's batch. A copy
  /// on the home rank costs no exchange and is preferred; else copies take turns by (token + k +
  /// home_rank), so that a hot expert's rows spread over all its copies. So the copy depends on the
  /// batch, but no result does: copies hold the same weights and every op is row-invariant.
  int32_t Choose(int32_t expert_id, int32_t home_rank, int32_t token, int32_t k) const;
  /// The first copy of an expert, on whatever rank.
  int32_t FirstSlot(int32_t expert_id) const { return slots_[begin_[expert_id]]; }

 private:
  std::vector<int32_t> begin_;            // [num_experts + 1] into slots_
  std::vector<int32_t> slots_;            // by expert, then ascending
  std::vector<int32_t> slot_rank_;        // [num_slots]
  std::vector<int32_t> rank_slot_begin_;  // [num_ranks + 1]
};

/// Everything one rank does in the dispatch, the experts and the combine of one MoE layer of one
/// step.
///
/// A plain value: a pure function of the routing of all ranks, so that every rank knows what all
/// others do without asking. "Own tokens" live on this rank (their home); a row is one token's
/// hidden state.
struct DispatchPlan {
  int32_t rank = 0;
  int32_t num_tokens = 0;  // own
  int32_t top_k = 0;

  // Dispatch: an own token goes at most once to each other rank.
  std::vector<int32_t> send_rows;   // [num_ranks] rows sent to each rank; 0 to itself
  std::vector<int32_t> send_token;  // own token of each row sent, by (destination, token)
  std::vector<int32_t> recv_rows;   // [num_ranks] rows received from each rank; 0 from itself

  // Experts. Input rows: the own tokens, then the received rows by (source, token).
  std::vector<int32_t> expert_offsets;  // [local slots + 1] rows of local slot s: [o[s], o[s + 1])
  std::vector<int32_t> x_row;           // [num expert rows] input row, by (slot, source, token, k)
  std::vector<int32_t> out_row;         // [num expert rows] output row

  // Combine. Output rows: first one for each (own token, k), those that return from other ranks by
  // (rank, token, k) and then those computed here by (token, k); last those computed here for other
  // ranks, by (home rank, token, k).
  std::vector<int32_t> home_rows;    // [num_ranks] rows that return from each rank; 0 from itself
  std::vector<int32_t> return_rows;  // [num_ranks] rows this rank returns to each; 0 to itself
  std::vector<int32_t> row_of;       // [num_tokens * top_k] output row of each own choice

  // For audits: who computed each own choice.
  std::vector<int32_t> slot_of;  // [num_tokens * top_k] slot of the layer
  std::vector<int32_t> rank_of;  // [num_tokens * top_k] rank of that slot

  int32_t num_sent() const { return static_cast<int32_t>(send_token.size()); }
  int32_t num_received() const;
  int32_t num_expert_rows() const { return static_cast<int32_t>(x_row.size()); }
  int32_t num_home() const;      // rows that return from other ranks
  int32_t num_returned() const;  // rows returned to other ranks
  /// Output rows that belong to own tokens: they come first.
  int32_t num_own_output_rows() const { return num_tokens * top_k; }

  bool operator==(const DispatchPlan&) const = default;
};

struct DispatchPlanParams {
  const ExpertSlots* slots = nullptr;
  std::span<const int32_t> topk_ids;             // [sum num_tokens_per_rank, top_k], in rank order
  std::span<const int32_t> num_tokens_per_rank;  // [num_ranks]
  int32_t top_k = 0;
  int32_t rank = 0;
};

/// INTERNAL naming the rank, token and id when an id is out of range or occurs twice for one token,
/// or when there is not one id per token and choice: ids come from other ranks.
absl::StatusOr<DispatchPlan> MakeDispatchPlan(const DispatchPlanParams& params);

}  // namespace moed
