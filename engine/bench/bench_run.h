#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/api/step.h"
#include "engine/bench/bench_options.h"
#include "engine/runtime/local_engine_group.h"

namespace moed {

/// What one phase (prompt processing, or generation) of one repetition took.
struct PhaseSample {
  int64_t num_tokens = 0;
  int32_t num_steps = 0;
  double seconds = 0;           // wall clock of all steps, planning included
  double plan_seconds = 0;      // of that, making the plans
  StepTimes times;              // summed over the steps, averaged over the ranks
  double distinct_experts = 0;  // per MoE layer and step, over all ranks; mean
  double balancedness = 0;      // mean / max rows per rank; mean over the steps
};

struct BatchSamples {
  int32_t batch = 0;
  std::vector<PhaseSample> prompt;      // [num_repetitions]
  std::vector<PhaseSample> generation;  // [num_repetitions]
};

/// Measures one batch size: every sequence has a prompt of its own, of random tokens, and then one
/// random token a step (the sampled ones are thrown away: with random weights they would soon all
/// be the same). One short unmeasured run comes first. Sequence i belongs to rank i % num_ranks.
absl::StatusOr<BatchSamples> RunBatch(LocalEngineGroup& group, const BenchOptions& options,
                                      int32_t batch, const ModelConfig& config);

}  // namespace moed
