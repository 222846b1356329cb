#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "config/model_config.h"

namespace moed {

/// What a tensor is for: the scale of dummy weights and the format of kept ones depend on it.
enum class WeightRole : uint8_t {
  kEmbedding,
  kNorm,
  kBias,
  kInput,   // projects a normalised hidden state: q, k, v, gate, up
  kOutput,  // adds to the hidden state: o, down
  kRouter,  // scores experts: the router, the gate of a shared expert
  kHead,    // of its own, not tied to the embedding
};

/// A matrix of a layer's attention or experts.
constexpr bool IsProjection(WeightRole role) {
  return role == WeightRole::kInput || role == WeightRole::kOutput;
}

/// Rows of a stored tensor, seen as the matrix [product of all sizes but the last, last size].
struct MatrixRef {
  std::string tensor;
  std::vector<int64_t> tensor_shape;
  WeightRole role = WeightRole::kInput;
  int64_t row_begin = 0;
  int64_t rows = 0;
  int64_t cols = 0;

  int64_t num_elements() const { return rows * cols; }
};

struct ExpertTensors {
  MatrixRef gate;  // [I, H]
  MatrixRef up;    // [I, H]
  MatrixRef down;  // [H, I]
};

struct LayerTensors {
  MatrixRef input_norm;
  std::vector<MatrixRef> qkv;       // q, k, v
  std::vector<MatrixRef> qkv_bias;  // q, k, v, or empty
  MatrixRef o_proj;
  std::optional<MatrixRef> o_bias;
  std::optional<MatrixRef> q_norm;
  std::optional<MatrixRef> k_norm;
  MatrixRef post_attention_norm;
  std::optional<MatrixRef> router;
  std::vector<ExpertTensors> experts;  // [num_experts], or empty in a dense layer
  std::optional<ExpertTensors> shared;
  std::optional<MatrixRef> shared_gate;
  std::optional<ExpertTensors> dense;
};

/// Where each matrix of a model is stored.
struct ModelTensors {
  MatrixRef embedding;
  MatrixRef final_norm;
  std::optional<MatrixRef> lm_head;  // unset when tied to the embedding
  std::vector<LayerTensors> layers;
  bool fp8_weights = false;  // as in ModelConfig
};

/// Names every tensor of a model. Experts may be stored in several layouts (one tensor each, or all
/// of a layer in one) and under two module names; `exists` says which names are there, and where it
/// knows none the names are those of the family's published files.
ModelTensors MapTensors(const ModelConfig& config,
                        const std::function<bool(const std::string&)>& exists);

/// Calls `visit` for every matrix in model order.
void ForEachMatrix(const ModelTensors& tensors, const std::function<void(const MatrixRef&)>& visit);

}  // namespace moed
