#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "config/model_config.h"
#include "engine/api/step.h"
#include "engine/bench/bench_options.h"
#include "engine/bench/bench_plan.h"
#include "engine/bench/machine_ceilings.h"
#include "engine/runtime/local_engine_group.h"

namespace moed {

enum class BenchTest : uint8_t {
  kPrefill,     // the prompts of all sequences
  kGeneration,  // one token of each sequence a step
  kMixed,       // the same, and a chunk of one more prompt in the same step
};

/// What one test of one repetition took.
struct TestSample {
  StepLoad load;  // summed over the steps
  int32_t num_steps = 0;
  double seconds = 0;           // wall clock of all steps, planning included
  double plan_seconds = 0;      // of that, making the plans
  StepTimes times;              // summed over the steps, averaged over the ranks
  double distinct_experts = 0;  // per MoE layer and step, over all ranks; mean
  double balancedness = 0;      // mean / max rows per rank; mean over the steps
  /// The machine's best streaming read at that time: mean of before and after. 0 = not measured.
  double read_bytes_per_s = 0;
};

struct TestSamples {
  BenchTest test = BenchTest::kPrefill;
  int32_t batch = 0;
  std::vector<TestSample> samples;  // [num_repetitions]
};

/// Measures one batch size: prompts of random tokens, then one random token a step for each
/// sequence (the sampled ones are thrown away: with random weights they would soon all be the
/// same), then, if asked for, decoding beside one more prompt. One unmeasured run comes first.
/// Returns the tests that have steps. `probe` is null for no measurement of the machine.
absl::StatusOr<std::vector<TestSamples>> RunBatch(LocalEngineGroup& group,
                                                  const BenchOptions& options, int32_t batch,
                                                  const ModelConfig& config, ReadProbe* probe);

}  // namespace moed
