#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "engine/api/step.h"

namespace moed {

/// What a loaded engine has and can do; fixed after load.
struct EngineInfo {
  int32_t rank = 0;
  int32_t num_ranks = 1;
  std::string device;           // "cpu" or "cuda:N"
  std::string instruction_set;  // what the kernels chose, e.g. "avx512_bf16"
  std::string dtype;            // "bf16", "f32", "int8" or "int4", as --dtype names it
  int32_t num_threads = 1;
  int32_t block_size = 16;             // tokens per KV block
  int32_t num_blocks = 0;              // KV blocks of this rank
  int32_t max_tokens_per_step = 0;     // largest sum of num_new_tokens over the slices of one plan
  int32_t max_sequences_per_step = 0;  // most slices in one plan
  int64_t weight_bytes = 0;
  int64_t kv_bytes = 0;
  int64_t exchange_bytes = 0;
  int64_t workspace_bytes = 0;
};

/// One rank. Owned by engine/main (or a test); all calls come from one thread, one at a time.
class Engine {
 public:
  virtual ~Engine() = default;

  virtual const EngineInfo& info() const = 0;

  /// Runs one forward pass together with all other ranks and samples. INVALID_ARGUMENT for a plan
  /// that does not fit this engine (checked before anything is computed); ABORTED or
  /// DEADLINE_EXCEEDED when a peer did not take part, naming rank, step, layer and phase: the group
  /// must then be restarted.
  virtual absl::StatusOr<StepResult> Execute(const StepPlan& plan) = 0;
};

}  // namespace moed
