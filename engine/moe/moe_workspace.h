#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "config/model_config.h"
#include "engine/api/expert_placement.h"
#include "engine/comm/communicator.h"
#include "engine/moe/moe_layer.h"
#include "kernels/backend.h"

namespace moed {

/// What the scratch of one rank depends on.
struct MoeWorkspaceParams {
  const ModelConfig& config;
  const ExpertPlacement& placement;
  int32_t rank = 0;
  MoeOptions options;
  DType activation = DType::kBF16;
};

/// Bytes of every scratch buffer of one rank's MoE layers. Symbols: T max tokens per rank, R ranks,
/// K top_k, S most slots of one layer on this rank, M = min(K, S): most rows of one token that this
/// rank computes, G most tokens per rank of an all-gather.
struct MoeWorkspaceSizes {
  int64_t logits = 0;        // [T, E] f32
  int64_t topk_ids = 0;      // [T, K]
  int64_t topk_weights = 0;  // [T, K] f32
  int64_t all_topk_ids = 0;  // [R * T, K]; none with one rank
  int64_t send_rows = 0;     // [(R - 1) * T, H] own rows for other ranks
  int64_t input_rows =
      0;  // [R * T, H] own and received rows; none with one rank, which reads x itself
  int64_t gate_up = 0;      // [R * T * M, I] activated rows of the experts
  int64_t output_rows = 0;  // [T * K + (R - 1) * T * M, H] rows of own tokens, then rows to return;
                            // at least [2 * R * G * K, H]
  int64_t own_token = 0;    // [T] 0, 1, 2, ...; none with one rank
  int64_t send_token = 0;   // [(R - 1) * T]
  int64_t x_row = 0;        // [R * T * M], at least [R * G * K]
  int64_t out_row = 0;      // likewise
  int64_t row_of = 0;       // [T, K]
  // Only with one rank, or with all-gather.
  int64_t slot_of_expert = 0;      // [MoE layers, E]
  int64_t rank_of_expert = 0;      // [MoE layers, E]; none with one rank
  int64_t expert_offsets = 0;      // [S + 1] with one rank, else [MoE layers, S + 2]
  int64_t tokens_per_expert = 0;   // [MoE layers, E]
  int64_t shared_gate_up = 0;      // [T, I of the shared expert]; none without
  int64_t shared_rows = 0;         // [T, H]
  int64_t shared_gate_logits = 0;  // [T, 1] f32; none without a gate

  int64_t total() const;
};

/// INVALID_ARGUMENT when config and placement do not fit each other, a count is out of range, or
/// sizes do not fit (rows in 31 bits, bytes in 63).
absl::StatusOr<MoeWorkspaceSizes> ComputeMoeWorkspaceSizes(const MoeWorkspaceParams& params);

/// All scratch of the MoE layers of one rank, allocated once. Owned by the MoeLayer.
struct MoeWorkspace {
  static absl::StatusOr<MoeWorkspace> Allocate(kernels::Backend& backend,
                                               const MoeWorkspaceSizes& sizes);

  kernels::Buffer logits;
  kernels::Buffer topk_ids;
  kernels::Buffer topk_weights;
  kernels::Buffer all_topk_ids;
  kernels::Buffer send_rows;
  kernels::Buffer input_rows;
  kernels::Buffer gate_up;
  kernels::Buffer output_rows;
  kernels::Buffer own_token;
  kernels::Buffer send_token;
  kernels::Buffer x_row;
  kernels::Buffer out_row;
  kernels::Buffer row_of;
  kernels::Buffer slot_of_expert;
  kernels::Buffer rank_of_expert;
  kernels::Buffer expert_offsets;
  kernels::Buffer tokens_per_expert;
  kernels::Buffer shared_gate_up;
  kernels::Buffer shared_rows;
  kernels::Buffer shared_gate_logits;

  // Host memory.
  std::vector<int32_t> host_topk_ids;  // of all ranks
  std::vector<int64_t> send_bytes;     // [R] of the exchange being made
  std::vector<int64_t> recv_bytes;     // [R]
};

/// What every stage of a MoE layer works with. References live as long as the MoeLayer.
struct MoeContext {
  const ModelConfig& config;
  kernels::Backend& backend;
  Communicator& communicator;
  MoeWorkspace& workspace;
};

/// The first rows * cols elements of a buffer.
kernels::TensorView RowsView(const kernels::Buffer& buffer, DType dtype, int64_t rows,
                             int64_t cols);

}  // namespace moed
