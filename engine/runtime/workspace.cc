#include "engine/runtime/workspace.h"

#include <array>
#include <utility>

#include "config/base/status_macros.h"

namespace moed {
namespace {

bool HasDenseLayers(const ModelConfig& config) {
  return config.num_moe_layers() < config.num_layers;
}

/// The shapes of all activations, without memory.
Activations ActivationShapes(const ModelConfig& config, const StepLimits& limits, DType act) {
  const int64_t tokens = limits.max_tokens_per_step;
  const int64_t sampled = limits.max_sequences_per_step;
  const int64_t hidden = config.hidden_size;
  const int64_t q_cols = config.num_heads * config.head_dim;
  const int64_t kv_cols = config.num_kv_heads * config.head_dim;
  const bool dense = HasDenseLayers(config);
  return {
      .hidden = {.dtype = DType::kF32, .rows = tokens, .cols = hidden},
      .normed = {.dtype = act, .rows = tokens, .cols = hidden},
      .qkv = {.dtype = DType::kF32, .rows = tokens, .cols = q_cols + 2 * kv_cols},
      .q = {.dtype = act, .rows = tokens, .cols = q_cols},
      .attention_out = {.dtype = act, .rows = tokens, .cols = q_cols},
      .mlp_act = {.dtype = act, .rows = tokens, .cols = dense ? config.dense_intermediate_size : 0},
      .mlp_out = {.dtype = act, .rows = tokens, .cols = dense ? hidden : 0},
      .sampled_hidden = {.dtype = DType::kF32, .rows = sampled, .cols = hidden},
      .sampled_normed = {.dtype = act, .rows = sampled, .cols = hidden},
      .logits = {.dtype = DType::kF32, .rows = sampled, .cols = config.vocab_size},
  };
}

std::array<kernels::TensorView*, 10> Views(Activations& act) {
  return {&act.hidden,         &act.normed,  &act.qkv,     &act.q,
          &act.attention_out,  &act.mlp_act, &act.mlp_out, &act.sampled_hidden,
          &act.sampled_normed, &act.logits};
}

}  // namespace

absl::StatusOr<Workspace> Workspace::Create(kernels::Backend& backend, const ModelConfig& config,
                                            const StepLimits& limits) {
  Workspace workspace;
  workspace.activations_ = ActivationShapes(config, limits, backend.activation_dtype());
  for (kernels::TensorView* view : Views(workspace.activations_)) {
    if (view->size_bytes() == 0) continue;
    MOED_ASSIGN_OR_RETURN(kernels::Buffer buffer, backend.Allocate(view->size_bytes()));
    view->data = buffer.data();
    workspace.buffers_.push_back(std::move(buffer));
  }
  return workspace;
}

int64_t Workspace::Bytes(const ModelConfig& config, const StepLimits& limits,
                         DType activation_dtype) {
  Activations activations = ActivationShapes(config, limits, activation_dtype);
  int64_t total = 0;
  for (kernels::TensorView* view : Views(activations)) total += view->size_bytes();
  return total;
}

int64_t Workspace::size_bytes() const {
  int64_t total = 0;
  for (const kernels::Buffer& buffer : buffers_) total += buffer.size_bytes();
  return total;
}

}  // namespace moed
