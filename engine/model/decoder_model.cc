#include "engine/model/decoder_model.h"

#include <array>
#include <utility>
#include <vector>

#include "config/base/status_macros.h"
#include "engine/model/scoped_timer.h"

namespace moed {

DecoderModel::DecoderModel(const DecoderModelParams& params, ModelWeights weights,
                           Attention attention)
    : params_(params),
      config_(*params.config),
      backend_(*params.backend),
      weights_(std::move(weights)),
      attention_(std::move(attention)) {
  int32_t num_moe_layers = 0;
  for (bool is_moe : config_.layer_is_moe) moe_index_.push_back(is_moe ? num_moe_layers++ : -1);
}

absl::StatusOr<std::unique_ptr<DecoderModel>> DecoderModel::Create(const DecoderModelParams& params,
                                                                   ModelWeights weights) {
  MOED_ASSIGN_OR_RETURN(Attention attention,
                        Attention::Create(*params.backend, *params.config, params.max_model_len));
  std::unique_ptr<DecoderModel> model(
      new DecoderModel(params, std::move(weights), std::move(attention)));
  if (params.config->num_moe_layers() > 0) {
    MOED_ASSIGN_OR_RETURN(
        model->moe_layer_,
        MoeLayer::Create(
            *params.backend, *params.communicator, *params.config, *params.placement,
            {.max_tokens_per_rank = params.max_tokens_per_rank, .exchange = params.exchange}));
  }
  model->FoldLogitsScalingIntoFinalNorm();
  return model;
}

int64_t DecoderModel::workspace_bytes() const {
  return Attention::TableBytes(config_, params_.max_model_len) +
         (moe_layer_ ? moe_layer_->workspace_bytes() : 0);
}

absl::Status DecoderModel::Forward(const ModelBatch& batch, const PagedKvCache& cache,
                                   const Activations& act, StepResult& result) {
  Embed(batch, act);
  for (int64_t layer = 0; layer < config_.num_layers; ++layer) {
    {
      ScopedTimer timer(result.times.attention);
      AttentionPart(layer, cache.layer(layer), batch, act, result.times);
    }
    if (moe_index_[layer] >= 0) {
      MOED_RETURN_IF_ERROR(MoePart(layer, batch, act, result));
    } else {
      ScopedTimer timer(result.times.experts);
      DenseMlpPart(weights_.layers[layer], batch, act);
    }
  }
  ScopedTimer timer(result.times.head);
  Head(batch, act);
  return absl::OkStatus();
}

void DecoderModel::FinishStep(const ModelBatch& batch, StepResult& result) {
  if (moe_layer_) moe_layer_->FinishStep(batch.num_own_tokens, result);
}

kernels::StepParams DecoderModel::Step(const ModelBatch& batch) const {
  return {.attention = batch.num_tokens > 0 ? &batch.attention : nullptr,
          .num_heads = static_cast<int32_t>(config_.num_heads),
          .num_kv_heads = static_cast<int32_t>(config_.num_kv_heads),
          .head_dim = static_cast<int32_t>(config_.head_dim),
          .recording_id = batch.is_recordable ? batch.num_tokens : 0};
}

void DecoderModel::Embed(const ModelBatch& batch, const Activations& act) {
  if (batch.num_tokens == 0) return;
  backend_.EmbedTokens(*weights_.embedding, batch.token_ids,
                       static_cast<float>(config_.embedding_multiplier),
                       FirstRows(act.hidden, batch.num_tokens));
}

void DecoderModel::AttentionPart(int64_t layer, const kernels::KvCacheView& cache,
                                 const ModelBatch& batch, const Activations& act,
                                 StepTimes& times) {
  if (batch.num_tokens == 0) return;
  const LayerWeights& weights = weights_.layers[layer];
  const kernels::TensorView hidden = FirstRows(act.hidden, batch.num_tokens);
  const kernels::TensorView normed = FirstRows(act.normed, batch.num_tokens);
  const float eps = static_cast<float>(config_.rms_norm_eps);
  backend_.RmsNorm(hidden, weights.input_norm.as<float>(), eps, normed);
  attention_.Forward(weights, cache, batch, act, times);
  backend_.RmsNorm(hidden, weights.post_attention_norm.as<float>(), eps, normed);
}

absl::Status DecoderModel::MoePart(int64_t layer, const ModelBatch& batch, const Activations& act,
                                   StepResult& result) {
  return moe_layer_->Forward({.weights = &weights_.layers[layer],
                              .moe_layer = moe_index_[layer],
                              .layer = static_cast<int32_t>(layer),
                              .step_id = batch.step_id,
                              .num_tokens_per_rank = batch.num_tokens_per_rank,
                              .num_counted_tokens = batch.num_counted_tokens,
                              .x = FirstRows(act.normed, batch.num_tokens),
                              .hidden = FirstRows(act.hidden, batch.num_tokens)},
                             result);
}

/// A dense MLP is a list of one expert that every row goes to.
void DecoderModel::DenseMlpPart(const LayerWeights& weights, const ModelBatch& batch,
                                const Activations& act) {
  if (batch.num_tokens == 0) return;
  const std::array<int32_t, 2> all_rows = {0, static_cast<int32_t>(batch.num_tokens)};
  backend_.ExpertsGateUp({.x = FirstRows(act.normed, batch.num_tokens),
                          .experts = weights.dense.get(),
                          .expert_offsets = all_rows,
                          .out = FirstRows(act.mlp_act, batch.num_tokens)});
  backend_.ExpertsDown({.x = FirstRows(act.mlp_act, batch.num_tokens),
                        .experts = weights.dense.get(),
                        .expert_offsets = all_rows,
                        .out = FirstRows(act.mlp_out, batch.num_tokens)});
  backend_.AddRows({.rows = FirstRows(act.mlp_out, batch.num_tokens),
                    .scale = static_cast<float>(config_.residual_multiplier),
                    .hidden = FirstRows(act.hidden, batch.num_tokens)});
}

/// Final norm and LM head of the sampled rows only.
void DecoderModel::Head(const ModelBatch& batch, const Activations& act) {
  if (batch.num_sampled == 0) return;
  const kernels::TensorView hidden = FirstRows(act.sampled_hidden, batch.num_sampled);
  const kernels::TensorView normed = FirstRows(act.sampled_normed, batch.num_sampled);
  backend_.GatherRows({.src = FirstRows(act.hidden, batch.num_tokens),
                       .row_index = batch.sampled_rows,
                       .out = hidden});
  backend_.RmsNorm(hidden, weights_.final_norm.as<float>(),
                   static_cast<float>(config_.rms_norm_eps), normed);
  backend_.Linear({.x = normed,
                   .weights = weights_.lm_head.get(),
                   .out = FirstRows(act.logits, batch.num_sampled)});
}

/// logits / s = lm_head(norm(x) * w) / s = lm_head(norm(x) * (w / s)): the final norm feeds nothing
/// but the LM head, so the division costs no op.
void DecoderModel::FoldLogitsScalingIntoFinalNorm() {
  if (config_.logits_scaling == 1.0) return;
  std::vector<float> norm(config_.hidden_size);
  const int64_t bytes = static_cast<int64_t>(norm.size() * sizeof(float));
  backend_.CopyToHost(norm.data(), weights_.final_norm.data(), bytes);
  for (float& weight : norm) weight = static_cast<float>(weight / config_.logits_scaling);
  backend_.CopyToDevice(weights_.final_norm.data(), norm.data(), bytes);
}

}  // namespace moed
