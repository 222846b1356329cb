#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "config/base/dtype.h"
#include "engine/api/engine.h"
#include "engine/api/exchange_strategy.h"
#include "engine/api/expert_placement.h"
#include "kernels/params.h"

namespace moed {

/// Everything the daemon tells one engine about itself, before the first step.
struct EngineConfig {
  std::string model_dir;
  std::string model_config_json;  // used instead of model_dir/config.json when not empty
  bool dummy_weights = false;     // weights from dummy_seed, nothing is read
  uint64_t dummy_seed = 0;
  int32_t rank = 0;
  ExpertPlacement placement;   // its num_ranks is the number of engines
  std::string device = "cpu";  // "cpu" or "cuda:N"
  DType activation_dtype = DType::kBF16;
  kernels::WeightFormat weight_format = kernels::WeightFormat::kStored;
  kernels::Numerics numerics = kernels::Numerics::kInvariant;
  DType kv_dtype = DType::kBF16;
  int32_t num_threads = 1;
  std::vector<int32_t> cpus;    // to pin the threads to; empty = do not pin
  std::string instruction_set;  // "" = the best of the machine
  int32_t block_size = 16;
  int32_t num_blocks = 0;
  int32_t max_tokens_per_step = 512;
  int32_t max_sequences_per_step = 64;
  int32_t max_model_len = 0;                            // 0 = the model's own
  int32_t num_valid_tokens = 0;                         // 0 = the model's vocab_size
  absl::Duration exchange_timeout = absl::Seconds(30);  // of one collective call
  int64_t max_exchange_bytes_per_rank = 0;
  ExchangeStrategy exchange = ExchangeStrategy::kAllToAll;
  std::string nccl_library;  // that ranks on GPUs exchange rows through; "" = libnccl.so.2

  bool operator==(const EngineConfig&) const = default;
};

/// What a loading engine tells, and asks, whoever waits for it. Called from the loading thread.
struct LoadHooks {
  std::function<void(int64_t done_bytes, int64_t total_bytes)> progress;
  std::function<bool()> cancelled;
  /// Tells all ranks what rank 0 calls their group: rank 0 passes a name and gets it back, every
  /// other rank passes "" and waits. To be called at most once, by all ranks or by none. CANCELLED
  /// when the session ends before.
  std::function<absl::StatusOr<std::string>(const std::string& own_name)> share_group_name;
};

/// Loads the engine that a config describes.
using EngineFactory =
    std::function<absl::StatusOr<std::unique_ptr<Engine>>(const EngineConfig&, const LoadHooks&)>;

}  // namespace moed
