#pragma once

#include <cstdint>
#include <span>

#include "kernels/params.h"
#include "kernels/tensor_view.h"

namespace moed {

/// One step's rows on one rank, as a forward pass reads them. Views only: engine/runtime owns the
/// memory. T rows (tokens, slice after slice), S rows whose logits are wanted; index arrays are in
/// backend memory.
struct ModelBatch {
  uint64_t step_id = 0;
  std::span<const int32_t> num_tokens_per_rank;  // [num_ranks] host
  int64_t num_tokens = 0;                        // T; 0 on a rank that only serves its experts
  /// Rows from there on are copies of one before, to fill up a recordable step: computed, but no
  /// part of the result.
  int64_t num_own_tokens = 0;
  const int32_t* num_counted_tokens = nullptr;  // [1] num_own_tokens in backend memory
  bool is_recordable = false;                   // see kernels::StepParams
  const int32_t* token_ids = nullptr;           // [T]
  const int32_t* positions = nullptr;           // [T]
  const int32_t* slots = nullptr;               // [T]
  kernels::AttentionBatch attention;
  int64_t num_sampled = 0;                // S
  const int32_t* sampled_rows = nullptr;  // [S] indices into the T rows
};

/// Scratch of a forward pass, as tall as the largest step. Views only: engine/runtime owns the
/// memory. "act" is the backend's activation dtype.
struct Activations {
  kernels::TensorView hidden;          // [T, H] f32, the residual stream
  kernels::TensorView normed;          // [T, H] act
  kernels::TensorView qkv;             // [T, (nh + 2 nkv) * hd] f32
  kernels::TensorView q;               // [T, nh * hd] act
  kernels::TensorView attention_out;   // [T, nh * hd] act
  kernels::TensorView mlp_act;         // [T, dense I] act; no columns without dense layers
  kernels::TensorView mlp_out;         // [T, H] act; likewise
  kernels::TensorView sampled_hidden;  // [S, H] f32
  kernels::TensorView sampled_normed;  // [S, H] act
  kernels::TensorView logits;          // [S, V] f32, the result
};

/// The first `rows` rows of a view.
inline kernels::TensorView FirstRows(kernels::TensorView view, int64_t rows) {
  view.rows = rows;
  return view;
}

}  // namespace moed
