#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/runtime/local_engine.h"

namespace moed {

/// What the memory plan is made from. All ranks run on this host and share its memory.
struct MemoryPlanInputs {
  std::vector<EngineMemory> ranks;
  int64_t available_bytes = 0;  // for all ranks together
  int64_t reserved_bytes = 0;   // of the available ones, left to the daemon and the system
  int32_t block_size = 16;      // tokens
  int32_t num_blocks = 0;       // of one rank; 0 = what fits, within what can be used
  int32_t max_sequences_per_step = 64;
  int32_t max_model_len = 0;  // asked for; 0 = as long as the model allows and memory fits
  int32_t model_max_len = 0;
};

/// Where the memory of the ranks goes. A value.
struct MemoryPlan {
  std::vector<EngineMemory> ranks;
  int32_t num_blocks = 0;  // of one rank
  int32_t block_size = 0;
  int32_t max_model_len = 0;
  int64_t available_bytes = 0;
  int64_t reserved_bytes = 0;

  int64_t kv_bytes(size_t rank) const { return ranks[rank].kv_bytes_per_block * num_blocks; }
  int64_t rank_bytes(size_t rank) const;
  int64_t total_bytes() const;
  /// Sequences of max_model_len that one rank's blocks hold at once, at least 1.
  int32_t num_full_sequences() const;
};

/// Divides the memory. Without num_blocks, KV blocks take what is left, but no more than twice what
/// max_sequences_per_step sequences of max_model_len use (the other half keeps prefixes).
/// RESOURCE_EXHAUSTED says by how much too little there is; INVALID_ARGUMENT when num_blocks and
/// max_model_len contradict each other.
absl::StatusOr<MemoryPlan> MakeMemoryPlan(const MemoryPlanInputs& inputs);

/// "1.50 GiB", "23.4 MiB".
std::string FormatBytes(int64_t num_bytes);

}  // namespace moed
