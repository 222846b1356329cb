#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "config/model_config.h"
#include "engine/api/step.h"
#include "engine/model/model_batch.h"
#include "engine/weights/model_weights.h"
#include "kernels/backend.h"

namespace moed {

/// The attention of a decoder layer, from the normed hidden state to the residual stream.
///
/// Owned by the DecoderModel, called from the engine's compute thread. Holds the rotary tables,
/// made once; the backend must outlive it.
class Attention {
 public:
  /// Makes the rotary tables for positions 0 .. max_model_len - 1.
  static absl::StatusOr<Attention> Create(kernels::Backend& backend, const ModelConfig& config,
                                          int32_t max_model_len);

  /// Bytes of the rotary tables.
  static int64_t TableBytes(const ModelConfig& config, int32_t max_model_len);

  /// hidden += residual_multiplier * o_proj(attention(qkv(normed))); writes K and V of the batch's
  /// rows to `cache` (this layer's). Reads act.normed, adds to act.hidden. The batch must have
  /// rows. Adds to times.attention_kv.
  void Forward(const LayerWeights& weights, const kernels::KvCacheView& cache,
               const ModelBatch& batch, const Activations& act, StepTimes& times);

 private:
  Attention(kernels::Backend& backend, const ModelConfig& config)
      : backend_(&backend), config_(&config) {}

  void AttendToCache(const LayerWeights& weights, const kernels::KvCacheView& cache,
                     const ModelBatch& batch, const Activations& act);
  kernels::PrepareQkvParams PrepareParams(const LayerWeights& weights, const ModelBatch& batch,
                                          const Activations& act) const;

  kernels::Backend* backend_;  // a pointer, so that the object can move
  const ModelConfig* config_;
  kernels::Buffer rope_cos_;  // [max_model_len, hd / 2] f32
  kernels::Buffer rope_sin_;
};

}  // namespace moed
