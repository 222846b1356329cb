#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/backend.h"

namespace moed {

/// What one rank holds of one decoder layer.
struct LayerWeights {
  kernels::Buffer input_norm;                   // [H] f32
  std::unique_ptr<kernels::LinearWeights> qkv;  // [(nh + 2 nkv) * hd, H], bias folded in
  kernels::Buffer q_norm;                       // [hd] or [nh * hd] f32; empty without qk-norm
  kernels::Buffer k_norm;
  std::unique_ptr<kernels::LinearWeights> o_proj;  // [H, nh * hd]
  kernels::Buffer post_attention_norm;             // [H] f32

  // A MoE layer has router and experts; a dense one has dense.
  std::unique_ptr<kernels::LinearWeights> router;  // [E, H]
  std::unique_ptr<kernels::ExpertWeights>
      experts;  // this rank's slots, in slot order; null if it has none
  std::unique_ptr<kernels::ExpertWeights> shared;       // one shared expert; null without
  std::unique_ptr<kernels::LinearWeights> shared_gate;  // [1, H]; null without
  std::unique_ptr<kernels::ExpertWeights> dense;        // one dense MLP; null in a MoE layer
};

/// What one rank holds of the model: its experts, and everything that is replicated.
struct ModelWeights {
  std::shared_ptr<kernels::LinearWeights> embedding;  // [V, H]; shared with lm_head when tied
  std::vector<LayerWeights> layers;
  kernels::Buffer final_norm;                       // [H] f32
  std::shared_ptr<kernels::LinearWeights> lm_head;  // [V, H]
  int64_t size_bytes = 0;
};

}  // namespace moed
