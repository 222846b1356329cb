#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "config/model_config.h"
#include "engine/api/expert_placement.h"
#include "engine/api/step.h"
#include "engine/comm/communicator.h"
#include "engine/kv/paged_kv_cache.h"
#include "engine/model/attention.h"
#include "engine/model/model_batch.h"
#include "engine/moe/moe_layer.h"
#include "engine/weights/model_weights.h"
#include "kernels/backend.h"

namespace moed {

/// What a DecoderModel is made of; everything pointed to must outlive it.
struct DecoderModelParams {
  kernels::Backend* backend = nullptr;
  Communicator* communicator = nullptr;
  const ModelConfig* config = nullptr;
  const ExpertPlacement* placement = nullptr;
  int32_t max_model_len = 0;        // positions
  int32_t max_tokens_per_rank = 0;  // largest entry of num_tokens_per_rank in any step
  ExchangeStrategy exchange = ExchangeStrategy::kAllToAll;
};

/// The forward pass of one rank: token ids in, logits of the sampled rows out.
///
/// Owned by the engine of the rank, called from its compute thread. Keeps weights and tables only:
/// rows, KV memory and scratch come in as arguments.
class DecoderModel {
 public:
  static absl::StatusOr<std::unique_ptr<DecoderModel>> Create(const DecoderModelParams& params,
                                                              ModelWeights weights);

  /// Runs all layers together with the other ranks (also with no rows of its own) and leaves the
  /// logits, divided by logits_scaling, in the first batch.num_sampled rows of act.logits. Adds
  /// times, bytes and expert counts to `result`. Errors are those of the communicator.
  absl::Status Forward(const ModelBatch& batch, const PagedKvCache& cache, const Activations& act,
                       StepResult& result);

  /// Forward as a step of the backend.
  kernels::StepParams Step(const ModelBatch& batch) const;

  /// After Forward, or its repetition: adds to `result` what it left in the backend. Waits for the
  /// backend.
  void FinishStep(const ModelBatch& batch, StepResult& result);

  int64_t weight_bytes() const { return weights_.size_bytes; }
  /// Rotary tables, and scratch and exchange memory of the MoE layers.
  int64_t workspace_bytes() const;

 private:
  DecoderModel(const DecoderModelParams& params, ModelWeights weights, Attention attention);

  void Embed(const ModelBatch& batch, const Activations& act);
  void AttentionPart(int64_t layer, const kernels::KvCacheView& cache, const ModelBatch& batch,
                     const Activations& act, StepTimes& times);
  void DenseMlpPart(const LayerWeights& weights, const ModelBatch& batch, const Activations& act);
  absl::Status MoePart(int64_t layer, const ModelBatch& batch, const Activations& act,
                       StepResult& result);
  void Head(const ModelBatch& batch, const Activations& act);
  void FoldLogitsScalingIntoFinalNorm();

  const DecoderModelParams params_;
  const ModelConfig& config_;
  kernels::Backend& backend_;
  ModelWeights weights_;
  Attention attention_;
  std::unique_ptr<MoeLayer> moe_layer_;  // null in a model without MoE layers
  std::vector<int32_t> moe_index_;       // [num_layers] index among the MoE layers; -1 = dense
};

}  // namespace moed
