#include "engine/moe/all_gather.h"

#include <algorithm>
#include <vector>

#include "config/base/check.h"
#include "config/base/status_macros.h"
#include "engine/moe/single_rank.h"

namespace moed {
namespace {

using kernels::TensorView;

/// [layers, S + 2]: rows of each of the rank's slots in a layer, and of one more for all rows that
/// are computed elsewhere.
int64_t OffsetsPerLayer(const MoeContext& context, int64_t num_layers) {
  return context.workspace.expert_offsets.size_bytes() /
         (num_layers * static_cast<int64_t>(sizeof(int32_t)));
}

int64_t NumLayers(const MoeContext& context) {
  return context.workspace.slot_of_expert.size_bytes() /
         (context.config.num_experts * static_cast<int64_t>(sizeof(int32_t)));
}

/// All rows of a block exchange: [R * block_tokens * K, H].
int64_t NumBlockRows(const MoeContext& context, int32_t block_tokens) {
  return int64_t{context.communicator.num_ranks()} * block_tokens * context.config.top_k;
}

/// What the other ranks return lies behind what is computed here.
TensorView ReturnedRows(const MoeContext& context, DType dtype, int64_t cols,
                        int32_t block_tokens) {
  const int64_t rows = NumBlockRows(context, block_tokens);
  TensorView view = RowsView(context.workspace.output_rows, dtype, 2 * rows, cols);
  view.rows = rows;
  view.data = view.as<std::byte>() + view.size_bytes();
  return view;
}

/// Groups the gathered choices by slot; those of other ranks' experts come last and are not looked
/// at again.
void PlanGatheredRows(const MoeContext& context, const MoeLayerInput& input, int32_t block_tokens) {
  const MoeWorkspace& workspace = context.workspace;
  const int32_t rank = context.communicator.rank();
  const int64_t layer = input.moe_layer;
  const int64_t first = layer * context.config.num_experts;
  const kernels::ExpertWeights* experts = input.weights->experts.get();
  const int32_t num_slots = experts == nullptr ? 0 : static_cast<int32_t>(experts->num_experts());
  context.backend.PlanExperts(
      {.topk_ids = workspace.all_topk_ids.as<int32_t>(),
       .num_tokens = int64_t{context.communicator.num_ranks()} * block_tokens,
       .top_k = static_cast<int32_t>(context.config.top_k),
       .num_experts = static_cast<int32_t>(context.config.num_experts),
       .slot_of_expert = workspace.slot_of_expert.as<int32_t>() + first,
       .num_slots = num_slots + 1,
       .counted_begin = rank * block_tokens,
       .counted_end = rank * block_tokens + static_cast<int32_t>(input.x.rows),
       .expert_offsets = workspace.expert_offsets.as<int32_t>() +
                         layer * OffsetsPerLayer(context, NumLayers(context)),
       .x_row = workspace.x_row.as<int32_t>(),
       .out_row = workspace.out_row.as<int32_t>(),
       .tokens_per_expert = workspace.tokens_per_expert.as<int32_t>() + first});
}

}  // namespace

void UploadAllGatherArrays(const MoeContext& context, std::span<const ExpertSlots> slots) {
  const int32_t rank = context.communicator.rank();
  std::vector<int32_t> slot_of_expert, rank_of_expert;
  for (const ExpertSlots& layer : slots) {
    const int32_t begin = layer.slot_begin(rank), elsewhere = layer.slot_begin(rank + 1) - begin;
    for (int32_t expert = 0; expert < layer.num_experts(); ++expert) {
      const int32_t slot = layer.FirstSlot(expert);
      rank_of_expert.push_back(layer.rank_of(slot));
      slot_of_expert.push_back(rank_of_expert.back() == rank ? slot - begin : elsewhere);
    }
  }
  const int64_t bytes = static_cast<int64_t>(slot_of_expert.size() * sizeof(int32_t));
  MOED_CHECK(bytes == context.workspace.slot_of_expert.size_bytes());
  MOED_CHECK(bytes == context.workspace.rank_of_expert.size_bytes());
  context.backend.CopyToDevice(context.workspace.slot_of_expert.data(), slot_of_expert.data(),
                               bytes);
  context.backend.CopyToDevice(context.workspace.rank_of_expert.data(), rank_of_expert.data(),
                               bytes);
  // Tokens that are not there choose as tokens do, no expert twice: the backend is promised that no
  // expert gets more rows than there are tokens.
  std::vector<int32_t> topk_ids(static_cast<size_t>(context.workspace.topk_ids.size_bytes()) /
                                sizeof(int32_t));
  for (size_t i = 0; i < topk_ids.size(); ++i) {
    topk_ids[i] = static_cast<int32_t>(i % static_cast<size_t>(context.config.top_k));
  }
  context.backend.CopyToDevice(context.workspace.topk_ids.data(), topk_ids.data(),
                               context.workspace.topk_ids.size_bytes());
}

absl::Status GatherAllRows(const MoeContext& context, const MoeLayerInput& input,
                           int32_t block_tokens) {
  const MoeWorkspace& workspace = context.workspace;
  const auto [x, dtype, num_tokens, cols] = input.x;
  const int64_t all_tokens = int64_t{context.communicator.num_ranks()} * block_tokens;
  const TensorView rows = RowsView(workspace.input_rows, dtype, all_tokens, cols);
  const int64_t block_bytes = rows.size_bytes() / context.communicator.num_ranks();
  auto* own = rows.as<std::byte>() + context.communicator.rank() * block_bytes;
  if (num_tokens > 0) {
    context.backend.GatherRows(
        {.src = input.x,
         .row_index = workspace.own_token.as<int32_t>(),
         .out = {.data = own, .dtype = dtype, .rows = num_tokens, .cols = cols}});
  }
  const int64_t ids_bytes = block_tokens * context.config.top_k * int64_t{sizeof(int32_t)};
  const GatherPart parts[] = {{.send = workspace.topk_ids.data(),
                               .recv = workspace.all_topk_ids.data(),
                               .bytes = ids_bytes},
                              {.send = own, .recv = rows.data, .bytes = block_bytes}};
  return context.communicator.AllGather(
      parts, {.step_id = input.step_id, .layer = input.layer, .phase = "dispatch"});
}

void RunGatheredExperts(const MoeContext& context, const MoeLayerInput& input,
                        int32_t block_tokens) {
  const MoeWorkspace& workspace = context.workspace;
  PlanGatheredRows(context, input, block_tokens);
  const kernels::ExpertWeights* experts = input.weights->experts.get();
  if (experts == nullptr) return;
  const int64_t all_tokens = int64_t{context.communicator.num_ranks()} * block_tokens;
  const int64_t most_rows =
      all_tokens * std::min(context.config.top_k, experts->num_experts());  // of this rank
  const TensorView gate_up =
      RowsView(workspace.gate_up, input.x.dtype, most_rows, context.config.moe_intermediate_size);
  const int32_t* offsets = workspace.expert_offsets.as<int32_t>() +
                           input.moe_layer * OffsetsPerLayer(context, NumLayers(context));
  context.backend.ExpertsGateUp(
      {.x = RowsView(workspace.input_rows, input.x.dtype, all_tokens, input.x.cols),
       .x_row = workspace.x_row.as<int32_t>(),
       .experts = experts,
       .backend_offsets = offsets,
       .max_rows_per_expert = all_tokens,
       .out = gate_up});
  context.backend.ExpertsDown({.x = gate_up,
                               .experts = experts,
                               .backend_offsets = offsets,
                               .max_rows_per_expert = all_tokens,
                               .out_row = workspace.out_row.as<int32_t>(),
                               .out = RowsView(workspace.output_rows, input.x.dtype,
                                               NumBlockRows(context, block_tokens), input.x.cols)});
}

absl::Status CombineReturnedBlocks(const MoeContext& context, const MoeLayerInput& input,
                                   int32_t block_tokens) {
  MoeWorkspace& workspace = context.workspace;
  const int64_t num_ranks = context.communicator.num_ranks();
  const TensorView returned = ReturnedRows(context, input.x.dtype, input.x.cols, block_tokens);
  // Rows for itself travel as all others do: then they lie among them.
  std::fill(workspace.send_bytes.begin(), workspace.send_bytes.end(),
            returned.size_bytes() / num_ranks);
  MOED_RETURN_IF_ERROR(context.communicator.AllToAllV(
      workspace.output_rows.data(), workspace.send_bytes, returned.data, workspace.send_bytes,
      {.step_id = input.step_id, .layer = input.layer, .phase = "combine"}));
  if (input.x.rows == 0) return absl::OkStatus();
  const auto top_k = static_cast<int32_t>(context.config.top_k);
  context.backend.LocateRows({.topk_ids = workspace.topk_ids.as<int32_t>(),
                              .num_tokens = input.x.rows,
                              .top_k = top_k,
                              .block_of_expert = workspace.rank_of_expert.as<int32_t>() +
                                                 input.moe_layer * context.config.num_experts,
                              .block_rows = block_tokens * top_k,
                              .row_of = workspace.row_of.as<int32_t>()});
  context.backend.Combine({.rows = returned,
                           .row_of = workspace.row_of.as<int32_t>(),
                           .topk_weights = workspace.topk_weights.as<float>(),
                           .top_k = top_k,
                           .scale = static_cast<float>(context.config.residual_multiplier),
                           .hidden = input.hidden});
  return absl::OkStatus();
}

void AddGatheredCounts(const MoeContext& context, std::span<const ExpertSlots> slots,
                       StepResult& result) {
  const MoeWorkspace& workspace = context.workspace;
  const int32_t rank = context.communicator.rank();
  result.tokens_per_expert.resize(slots.size() * context.config.num_experts);
  AddTokensPerExpert(context, result);
  const int64_t per_layer = OffsetsPerLayer(context, static_cast<int64_t>(slots.size()));
  std::vector<int32_t> offsets(slots.size() * per_layer);
  context.backend.CopyToHost(offsets.data(), workspace.expert_offsets.data(),
                             workspace.expert_offsets.size_bytes());
  for (size_t layer = 0; layer < slots.size(); ++layer) {
    const int32_t num_slots = slots[layer].slot_begin(rank + 1) - slots[layer].slot_begin(rank);
    result.num_expert_rows += offsets[layer * per_layer + num_slots];
  }
}

int64_t GatherBytes(const MoeContext& context, int64_t row_bytes, int32_t block_tokens) {
  const int64_t ids_bytes = context.config.top_k * int64_t{sizeof(int32_t)};
  return (context.communicator.num_ranks() - 1) * block_tokens * (row_bytes + ids_bytes);
}

int64_t ReturnBytes(const MoeContext& context, int64_t row_bytes, int32_t block_tokens) {
  return (context.communicator.num_ranks() - 1) * block_tokens * context.config.top_k * row_bytes;
}

}  // namespace moed
