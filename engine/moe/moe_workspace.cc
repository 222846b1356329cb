#include "engine/moe/moe_workspace.h"

#include <algorithm>
#include <initializer_list>
#include <numeric>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "config/base/check.h"
#include "config/base/checked_math.h"
#include "config/base/status_macros.h"

namespace moed {
namespace {

/// Products of sizes that remember whether one, or their sum, did not fit in 63 bits.
class CheckedSizes {
 public:
  int64_t Product(std::initializer_list<int64_t> factors) {
    std::optional<uint64_t> product = 1;
    for (const int64_t factor : factors) {
      product = product ? CheckedMul(*product, static_cast<uint64_t>(factor)) : std::nullopt;
    }
    sum_ = sum_ && product ? CheckedAdd(*sum_, *product) : std::nullopt;
    return ok() ? static_cast<int64_t>(*product) : 0;
  }

  bool ok() const { return sum_ && *sum_ <= static_cast<uint64_t>(INT64_MAX); }

 private:
  std::optional<uint64_t> sum_ = 0;
};

absl::Status CheckModel(const ModelConfig& config) {
  if (config.num_experts < 1 || config.num_experts > INT32_MAX || config.top_k < 1 ||
      config.top_k > config.num_experts || config.hidden_size < 1 ||
      config.moe_intermediate_size < 1 || config.shared_intermediate_size < 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "sizing the MoE layers: ", config.num_experts, " experts, top_k ", config.top_k,
        ", hidden size ", config.hidden_size, ", widths ", config.moe_intermediate_size, " and ",
        config.shared_intermediate_size, ": a count is out of range"));
  }
  return absl::OkStatus();
}

absl::Status CheckPlacement(const MoeWorkspaceParams& params) {
  const ExpertPlacement& placement = params.placement;
  MOED_RETURN_IF_ERROR(placement.Validate());
  const std::vector<bool>& is_moe = params.config.layer_is_moe;
  const auto num_moe_layers = std::count(is_moe.begin(), is_moe.end(), true);
  if (placement.num_experts != params.config.num_experts ||
      static_cast<int64_t>(placement.layers.size()) != num_moe_layers) {
    return absl::InvalidArgumentError(
        absl::StrCat("sizing the MoE layers: the placement is for ", placement.layers.size(),
                     " layers of ", placement.num_experts, " experts, expected ", num_moe_layers,
                     " of ", params.config.num_experts));
  }
  if (params.rank < 0 || params.rank >= placement.num_ranks) {
    return absl::InvalidArgumentError(
        absl::StrCat("sizing the MoE layers: rank ", params.rank, " of ", placement.num_ranks));
  }
  return absl::OkStatus();
}

int64_t MostLocalSlots(const ExpertPlacement& placement, int32_t rank) {
  int32_t most = 0;
  for (const ExpertPlacement::Layer& layer : placement.layers) {
    most = std::max(most, layer.rank_slot_begin[rank + 1] - layer.rank_slot_begin[rank]);
  }
  return most;
}

/// Row numbers are int32.
absl::Status CheckRows(int64_t max_tokens, int64_t num_ranks, int64_t top_k) {
  const auto all_tokens =
      CheckedMul(static_cast<uint64_t>(max_tokens), static_cast<uint64_t>(num_ranks));
  const auto rows =
      all_tokens ? CheckedMul(*all_tokens, static_cast<uint64_t>(top_k)) : std::nullopt;
  if (max_tokens >= 1 && rows && *rows <= INT32_MAX) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "sizing the MoE layers: ", max_tokens, " tokens per rank, ", num_ranks, " ranks, top_k ",
      top_k, ": expected at least 1 token and a product of at most ", INT32_MAX));
}

}  // namespace

int64_t MoeWorkspaceSizes::total() const {
  return logits + topk_ids + topk_weights + all_topk_ids + send_rows + input_rows + gate_up +
         output_rows + own_token + send_token + x_row + out_row + row_of + slot_of_expert +
         rank_of_expert + expert_offsets + tokens_per_expert + shared_gate_up + shared_rows +
         shared_gate_logits;
}

absl::StatusOr<MoeWorkspaceSizes> ComputeMoeWorkspaceSizes(const MoeWorkspaceParams& params) {
  const ModelConfig& config = params.config;
  MOED_RETURN_IF_ERROR(CheckModel(config));
  MOED_RETURN_IF_ERROR(CheckPlacement(params));
  const int64_t tokens = params.options.max_tokens_per_rank;
  const int64_t ranks = params.placement.num_ranks;
  const int64_t top_k = config.top_k;
  MOED_RETURN_IF_ERROR(CheckRows(tokens, ranks, top_k));

  const int64_t peer_tokens = (ranks - 1) * tokens;
  const int64_t most_slots = MostLocalSlots(params.placement, params.rank);
  const int64_t rows_per_token = std::min(top_k, most_slots);
  const int64_t gather_tokens = ranks == 1 ? 0 : params.options.max_gather_tokens();
  const int64_t gathered_rows = ranks * gather_tokens * top_k;
  const auto num_layers = static_cast<int64_t>(params.placement.layers.size());
  const int64_t gather_layers = gather_tokens > 0 ? num_layers : 0;
  const int64_t planned_layers = ranks == 1 ? num_layers : gather_layers;  // on the backend
  const int64_t num_offsets = ranks == 1 ? std::min<int64_t>(num_layers, 1) * (most_slots + 1)
                                         : gather_layers * (most_slots + 2);
  const int64_t expert_rows = (tokens + peer_tokens) * rows_per_token;
  const int64_t row_elements = config.hidden_size;
  const int64_t element = SizeBytes(params.activation);
  const int64_t shared_tokens = config.shared_intermediate_size > 0 ? tokens : 0;
  const int64_t gated_tokens = config.shared_expert_gate ? shared_tokens : 0;
  constexpr int64_t kInt = sizeof(int32_t);
  constexpr int64_t kFloat = sizeof(float);

  CheckedSizes bytes;
  const MoeWorkspaceSizes sizes = {
      .logits = bytes.Product({tokens, config.num_experts, kFloat}),
      .topk_ids = bytes.Product({tokens, top_k, kInt}),
      .topk_weights = bytes.Product({tokens, top_k, kFloat}),
      .all_topk_ids = bytes.Product({ranks > 1 ? ranks * tokens : 0, top_k, kInt}),
      .send_rows = bytes.Product({peer_tokens, row_elements, element}),
      .input_rows = bytes.Product({ranks > 1 ? ranks * tokens : 0, row_elements, element}),
      .gate_up = bytes.Product({expert_rows, config.moe_intermediate_size, element}),
      .output_rows =
          bytes.Product({std::max(tokens * top_k + peer_tokens * rows_per_token, 2 * gathered_rows),
                         row_elements, element}),
      .own_token = bytes.Product({ranks > 1 ? tokens : 0, kInt}),
      .send_token = bytes.Product({peer_tokens, kInt}),
      .x_row = bytes.Product({std::max(expert_rows, gathered_rows), kInt}),
      .out_row = bytes.Product({std::max(expert_rows, gathered_rows), kInt}),
      .row_of = bytes.Product({tokens, top_k, kInt}),
      .slot_of_expert = bytes.Product({planned_layers, config.num_experts, kInt}),
      .rank_of_expert = bytes.Product({gather_layers, config.num_experts, kInt}),
      .expert_offsets = bytes.Product({num_offsets, kInt}),
      .tokens_per_expert = bytes.Product({planned_layers, config.num_experts, kInt}),
      .shared_gate_up = bytes.Product({shared_tokens, config.shared_intermediate_size, element}),
      .shared_rows = bytes.Product({shared_tokens, row_elements, element}),
      .shared_gate_logits = bytes.Product({gated_tokens, kFloat}),
  };
  if (bytes.ok()) return sizes;
  return absl::InvalidArgumentError("sizing the MoE layers: more than 2^63 bytes of scratch");
}

absl::StatusOr<MoeWorkspace> MoeWorkspace::Allocate(kernels::Backend& backend,
                                                    const MoeWorkspaceSizes& sizes) {
  MoeWorkspace out;
  const std::pair<kernels::Buffer*, int64_t> buffers[] = {
      {&out.logits, sizes.logits},
      {&out.topk_ids, sizes.topk_ids},
      {&out.topk_weights, sizes.topk_weights},
      {&out.all_topk_ids, sizes.all_topk_ids},
      {&out.send_rows, sizes.send_rows},
      {&out.input_rows, sizes.input_rows},
      {&out.gate_up, sizes.gate_up},
      {&out.output_rows, sizes.output_rows},
      {&out.own_token, sizes.own_token},
      {&out.send_token, sizes.send_token},
      {&out.x_row, sizes.x_row},
      {&out.out_row, sizes.out_row},
      {&out.row_of, sizes.row_of},
      {&out.slot_of_expert, sizes.slot_of_expert},
      {&out.rank_of_expert, sizes.rank_of_expert},
      {&out.expert_offsets, sizes.expert_offsets},
      {&out.tokens_per_expert, sizes.tokens_per_expert},
      {&out.shared_gate_up, sizes.shared_gate_up},
      {&out.shared_rows, sizes.shared_rows},
      {&out.shared_gate_logits, sizes.shared_gate_logits},
  };
  for (const auto& [buffer, bytes] : buffers) {
    if (bytes == 0) continue;
    MOED_ASSIGN_OR_RETURN(*buffer, backend.Allocate(bytes));
  }
  std::vector<int32_t> tokens(static_cast<size_t>(sizes.own_token) / sizeof(int32_t));
  std::iota(tokens.begin(), tokens.end(), 0);
  if (!tokens.empty()) backend.CopyToDevice(out.own_token.data(), tokens.data(), sizes.own_token);
  MOED_RETURN_IF_ERROR(backend.Synchronize());
  return out;
}

kernels::TensorView RowsView(const kernels::Buffer& buffer, DType dtype, int64_t rows,
                             int64_t cols) {
  const kernels::TensorView view = {
      .data = buffer.data(), .dtype = dtype, .rows = rows, .cols = cols};
  MOED_CHECK(rows >= 0 && cols >= 0 && view.size_bytes() <= buffer.size_bytes());
  return view;
}

absl::StatusOr<int64_t> MoeWorkspaceBytes(const ModelConfig& config,
                                          const ExpertPlacement& placement, int32_t rank,
                                          const MoeOptions& options, DType activation) {
  MOED_ASSIGN_OR_RETURN(const MoeWorkspaceSizes sizes,
                        ComputeMoeWorkspaceSizes({.config = config,
                                                  .placement = placement,
                                                  .rank = rank,
                                                  .options = options,
                                                  .activation = activation}));
  return sizes.total();
}

}  // namespace moed
