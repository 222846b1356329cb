#include <algorithm>

#include "absl/strings/str_cat.h"
#include "config/base/status_macros.h"
#include "engine/bench/bench_options.h"
#include "engine/bench/bench_run.h"
#include "engine/bench/bench_summary.h"
#include "engine/bench/step_work.h"
#include "engine/runtime/parse_dtype.h"
#include "tests/gpu/bench_table.h"

namespace moed::gpu_bench {
namespace {

BenchOptions OptionsFor(const StepBenchParams& p) {
  BenchOptions options{.config_json = p.config_json, .load_format = "dummy", .device = "cuda:0"};
  options.num_prompt_tokens = static_cast<int32_t>(p.scale.Of(4096, 40));
  options.max_tokens_per_step = options.num_prompt_tokens;
  options.num_generated_tokens = static_cast<int32_t>(p.scale.Of(64, 4));
  options.batches = p.scale.tiny ? std::vector<int32_t>{1, 3} : std::vector<int32_t>{1, 8, 32, 64};
  options.num_repetitions = p.scale.tiny ? 1 : 3;
  options.pin = false;
  return options;
}

/// Seconds of a step, the median over the samples.
double StepSeconds(const std::vector<TestSample>& samples) {
  return SpreadOver(samples, [](const TestSample& s) { return s.seconds / s.num_steps; }).median;
}

/// What a step must read and compute, with the numbers of the first sample.
void AddTest(const StepBenchParams& p, const WorkModel& model, const TestSamples& test) {
  double bytes = 0, operations = 0;
  for (const StageWork& stage : WorkOfStep(model, test.samples.front())) {
    bytes += stage.bytes;
    operations += stage.operations;
  }
  const bool is_prefill = test.test == BenchTest::kPrefill;
  // A decode step may take 1.35 times what its bytes need.
  p.table.Add({.name = absl::StrCat("step, ", Name(test.test), ", batch ", test.batch),
               .seconds = StepSeconds(test.samples),
               .bytes = bytes,
               .operations = operations,
               .bound = is_prefill ? Bound::kArithmetic : Bound::kBytes,
               .goal = is_prefill ? 0 : 1 / 1.35});
}

}  // namespace

absl::Status BenchSteps(const StepBenchParams& p) {
  const BenchOptions options = OptionsFor(p);
  MOED_ASSIGN_OR_RETURN(const LocalEngineGroupOptions group_options, MakeGroupOptions(options));
  MOED_ASSIGN_OR_RETURN(const EngineDType dtype, ParseEngineDType(options.dtype));
  MOED_ASSIGN_OR_RETURN(const auto group, LocalEngineGroup::Create(group_options));
  const WorkModel model = {.config = group_options.config, .dtype = dtype};
  for (int32_t batch : options.batches) {
    MOED_ASSIGN_OR_RETURN(const std::vector<TestSamples> tests,
                          RunBatch(*group, options, batch, group_options.config, nullptr));
    for (const TestSamples& test : tests) {
      // Prompts of other batches are the same steps again.
      if (test.test == BenchTest::kPrefill && batch != options.batches.front()) continue;
      AddTest(p, model, test);
    }
  }
  return absl::OkStatus();
}

}  // namespace moed::gpu_bench
