#include "engine/runtime/memory_estimate.h"

#include <algorithm>

#include "config/base/status_macros.h"
#include "engine/model/attention.h"
#include "engine/moe/moe_layer.h"
#include "engine/runtime/batch_inputs.h"
#include "engine/runtime/step_limits.h"
#include "engine/runtime/workspace.h"
#include "engine/weights/weight_loader.h"

namespace moed {
namespace {

absl::StatusOr<int64_t> MoeBytes(const ModelConfig& config, const ExpertPlacement& placement,
                                 int32_t rank, const LocalEngineOptions& options) {
  if (config.num_moe_layers() == 0) return 0;
  return MoeWorkspaceBytes(
      config, placement, rank,
      {.max_tokens_per_rank = options.max_tokens_per_step, .exchange = options.exchange},
      options.backend.activation_dtype);
}

/// The type of matrices that the backend keeps as stored: bf16 activations round them all, except
/// for fp8 where it is kept; f32 ones keep those that are stored as bf16.
absl::StatusOr<DType> StoredDType(const ModelConfig& config, const WeightLoaderOptions& loader,
                                  const kernels::BackendOptions& backend) {
  const bool is_f32 = backend.activation_dtype == DType::kF32;
  const bool keeps_fp8 = config.fp8_weights && kernels::KeepsFp8(backend);
  if (!is_f32 && !keeps_fp8) return DType::kBF16;
  MOED_ASSIGN_OR_RETURN(const DType stored, StoredMatrixDType(config, loader));
  if (stored == DType::kF8E4M3) return keeps_fp8 ? stored : DType::kF32;
  return is_f32 ? stored : DType::kBF16;
}

}  // namespace

PagedKvCacheOptions KvCacheOptions(const ModelConfig& config, const LocalEngineOptions& options) {
  return {.num_layers = config.num_layers,
          .num_kv_heads = config.num_kv_heads,
          .head_dim = config.head_dim,
          .block_size = options.block_size,
          .num_blocks = options.num_blocks,
          .dtype = options.kv_dtype};
}

ExchangeShape ExchangeShapeOf(const ModelConfig& config, const ExpertPlacement& placement,
                              const LocalEngineOptions& options) {
  int32_t max_slots_per_rank = 0;
  for (const ExpertPlacement::Layer& layer : placement.layers) {
    for (size_t rank = 0; rank + 1 < layer.rank_slot_begin.size(); ++rank) {
      max_slots_per_rank = std::max(max_slots_per_rank,
                                    layer.rank_slot_begin[rank + 1] - layer.rank_slot_begin[rank]);
    }
  }
  return {.num_ranks = placement.num_ranks,
          .max_tokens_per_rank = options.max_tokens_per_step,
          .hidden_size = config.hidden_size,
          .top_k = static_cast<int32_t>(config.top_k),
          .max_slots_per_rank = max_slots_per_rank,
          .max_gather_tokens = MoeOptions{.max_tokens_per_rank = options.max_tokens_per_step,
                                          .exchange = options.exchange}
                                   .max_gather_tokens(),
          .activation = options.backend.activation_dtype};
}

absl::StatusOr<int64_t> ExchangeBytes(const ExchangeShape& shape) {
  if (shape.num_ranks == 1) return 0;
  MOED_ASSIGN_OR_RETURN(const int64_t max_bytes_per_rank, MaxExchangeBytesPerRank(shape));
  MOED_ASSIGN_OR_RETURN(const int64_t segment_bytes,
                        ShmSegmentBytes(shape.num_ranks, max_bytes_per_rank));
  return (segment_bytes + shape.num_ranks - 1) / shape.num_ranks;
}

absl::StatusOr<EngineMemory> EstimateMemory(const ModelConfig& config,
                                            const ExpertPlacement& placement,
                                            const WeightLoaderOptions& loader,
                                            const LocalEngineOptions& options) {
  const int32_t rank = loader.rank;
  MOED_ASSIGN_OR_RETURN(const StepLimits limits,
                        ResolveStepLimits(config, placement, rank, options));
  const DType act = options.backend.activation_dtype;
  EngineMemory memory;
  MOED_ASSIGN_OR_RETURN(const DType stored_dtype, StoredDType(config, loader, options.backend));
  MOED_ASSIGN_OR_RETURN(
      memory.weight_bytes,
      WeightBytes(config, placement,
                  {.rank = rank, .format = loader.weight_format, .stored_dtype = stored_dtype}));
  MOED_ASSIGN_OR_RETURN(memory.kv_bytes_per_block,
                        PagedKvCache::BytesPerBlock(KvCacheOptions(config, options)));
  MOED_ASSIGN_OR_RETURN(memory.exchange_bytes,
                        ExchangeBytes(ExchangeShapeOf(config, placement, options)));
  MOED_ASSIGN_OR_RETURN(const int64_t moe_bytes, MoeBytes(config, placement, rank, options));
  memory.workspace_bytes = moe_bytes + Attention::TableBytes(config, limits.max_model_len) +
                           BatchInputs::DeviceBytes(limits) + Workspace::Bytes(config, limits, act);
  return memory;
}

}  // namespace moed
