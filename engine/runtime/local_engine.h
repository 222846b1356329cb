#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "config/model_config.h"
#include "engine/api/engine.h"
#include "engine/api/exchange_strategy.h"
#include "engine/api/expert_placement.h"
#include "engine/comm/communicator.h"
#include "engine/weights/weight_loader.h"
#include "kernels/create_backend.h"

namespace moed {

/// Everything an engine needs to know about itself, whoever starts it.
struct LocalEngineOptions {
  kernels::BackendOptions backend;
  DType kv_dtype = DType::kBF16;        // kBF16 or kF32
  int32_t block_size = 16;              // tokens per KV block
  int32_t num_blocks = 0;               // KV blocks of this rank, >= 1
  int32_t max_tokens_per_step = 512;    // of one rank
  int32_t max_sequences_per_step = 64;  // of one rank
  int32_t max_model_len = 0;            // positions; 0 = the model's own limit
  ExchangeStrategy exchange = ExchangeStrategy::kAllToAll;
  int32_t num_valid_tokens =
      0;  // ids from here on have no token and are never sampled; 0 = vocab_size
};

/// Makes the communicator of a rank, whose calls work on memory of the rank's backend.
using CommunicatorFactory =
    std::function<absl::StatusOr<std::unique_ptr<Communicator>>(kernels::Backend& backend)>;

/// The engine of one rank: weights, KV memory, forward pass, sampling. See engine/api/engine.h.
class LocalEngine : public Engine {
 public:
  /// Opens the device, joins the group of ranks, loads the weights of loader.rank and allocates all
  /// memory.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(const ModelConfig& config,
                                                        const ExpertPlacement& placement,
                                                        const WeightLoaderOptions& loader,
                                                        const LocalEngineOptions& options,
                                                        const CommunicatorFactory& communicator);
};

/// Bytes a rank would need for one configuration, computed without loading weights (for `moed
/// --check`).
struct EngineMemory {
  int64_t weight_bytes = 0;
  int64_t kv_bytes_per_block = 0;
  int64_t exchange_bytes = 0;  // of the communicator, this rank's share
  int64_t workspace_bytes = 0;
};

/// Of the engine that LocalEngine::Create would make of these. With f32 activations it reads the
/// headers of the weight files, because matrices stored as bf16 stay bf16, and fails as loading
/// does. Weights are counted without the padding of panels to 64 rows.
absl::StatusOr<EngineMemory> EstimateMemory(const ModelConfig& config,
                                            const ExpertPlacement& placement,
                                            const WeightLoaderOptions& loader,
                                            const LocalEngineOptions& options);

}  // namespace moed
