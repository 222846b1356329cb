#include "engine/model/attention.h"

#include <utility>
#include <vector>

#include "config/base/status_macros.h"
#include "config/rope.h"
#include "engine/model/scoped_timer.h"

namespace moed {
namespace {

kernels::QkNorm ToKernel(QkNormKind kind) {
  switch (kind) {
    case QkNormKind::kNone:
      return kernels::QkNorm::kNone;
    case QkNormKind::kPerHead:
      return kernels::QkNorm::kPerHead;
    case QkNormKind::kFull:
      return kernels::QkNorm::kFull;
  }
  return kernels::QkNorm::kNone;
}

absl::StatusOr<kernels::Buffer> Upload(kernels::Backend& backend,
                                       const std::vector<float>& values) {
  const int64_t bytes = static_cast<int64_t>(values.size() * sizeof(float));
  MOED_ASSIGN_OR_RETURN(kernels::Buffer buffer, backend.Allocate(bytes));
  backend.CopyToDevice(buffer.data(), values.data(), bytes);
  return buffer;
}

}  // namespace

absl::StatusOr<Attention> Attention::Create(kernels::Backend& backend, const ModelConfig& config,
                                            int32_t max_model_len) {
  Attention attention(backend, config);
  const RopeTables tables = ComputeRopeTables(config.rope, config.head_dim, max_model_len);
  MOED_ASSIGN_OR_RETURN(attention.rope_cos_, Upload(backend, tables.cos));
  MOED_ASSIGN_OR_RETURN(attention.rope_sin_, Upload(backend, tables.sin));
  return attention;
}

int64_t Attention::TableBytes(const ModelConfig& config, int32_t max_model_len) {
  return 2 * static_cast<int64_t>(sizeof(float)) * max_model_len * (config.head_dim / 2);
}

kernels::PrepareQkvParams Attention::PrepareParams(const LayerWeights& weights,
                                                   const ModelBatch& batch,
                                                   const Activations& act) const {
  return {.qkv = FirstRows(act.qkv, batch.num_tokens),
          .positions = batch.positions,
          .slots = batch.slots,
          .num_heads = static_cast<int32_t>(config_->num_heads),
          .num_kv_heads = static_cast<int32_t>(config_->num_kv_heads),
          .head_dim = static_cast<int32_t>(config_->head_dim),
          .qk_norm = ToKernel(config_->qk_norm),
          .q_norm = weights.q_norm.as<float>(),
          .k_norm = weights.k_norm.as<float>(),
          .norm_eps = static_cast<float>(config_->rms_norm_eps),
          .clip_qkv = static_cast<float>(config_->clip_qkv),
          .rope_cos = rope_cos_.as<float>(),
          .rope_sin = rope_sin_.as<float>(),
          .q_out = FirstRows(act.q, batch.num_tokens)};
}

/// From act.qkv to act.attention_out.
void Attention::AttendToCache(const LayerWeights& weights, const kernels::KvCacheView& cache,
                              const ModelBatch& batch, const Activations& act) {
  backend_->PrepareQkv(PrepareParams(weights, batch, act), cache);
  backend_->Attention({.q = FirstRows(act.q, batch.num_tokens),
                       .cache = cache,
                       .batch = &batch.attention,
                       .num_heads = static_cast<int32_t>(config_->num_heads),
                       .num_kv_heads = static_cast<int32_t>(config_->num_kv_heads),
                       .head_dim = static_cast<int32_t>(config_->head_dim),
                       .scale = static_cast<float>(config_->attention_scale),
                       .out = FirstRows(act.attention_out, batch.num_tokens)});
}

void Attention::Forward(const LayerWeights& weights, const kernels::KvCacheView& cache,
                        const ModelBatch& batch, const Activations& act, StepTimes& times) {
  const int64_t rows = batch.num_tokens;
  backend_->Linear({.x = FirstRows(act.normed, rows),
                    .weights = weights.qkv.get(),
                    .out = FirstRows(act.qkv, rows)});
  {
    ScopedTimer timer(times.attention_kv);
    AttendToCache(weights, cache, batch, act);
  }
  backend_->Linear({.x = FirstRows(act.attention_out, rows),
                    .weights = weights.o_proj.get(),
                    .out = FirstRows(act.hidden, rows),
                    .accumulate = true,
                    .scale = static_cast<float>(config_->residual_multiplier)});
}

}  // namespace moed
