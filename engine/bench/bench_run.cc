#include "engine/bench/bench_run.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <optional>

#include "config/base/status_macros.h"

namespace moed {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

void AddTimes(const StepTimes& from, double weight, StepTimes& to) {
  to.attention += weight * from.attention;
  to.attention_kv += weight * from.attention_kv;
  to.route += weight * from.route;
  to.dispatch += weight * from.dispatch;
  to.dispatch_wait += weight * from.dispatch_wait;
  to.experts += weight * from.experts;
  to.combine += weight * from.combine;
  to.combine_wait += weight * from.combine_wait;
  to.head += weight * from.head;
  to.sampling += weight * from.sampling;
  to.total += weight * from.total;
}

/// Experts with at least one row, per MoE layer, over all ranks.
double DistinctExperts(const std::vector<StepResult>& results, const ModelConfig& config) {
  if (config.num_moe_layers() == 0) return 0;
  int64_t num_distinct = 0;
  for (int64_t i = 0; i < config.num_moe_layers() * config.num_experts; ++i) {
    num_distinct += std::any_of(results.begin(), results.end(), [i](const StepResult& result) {
      return result.tokens_per_expert[i] > 0;
    });
  }
  return static_cast<double>(num_distinct) / static_cast<double>(config.num_moe_layers());
}

double Balancedness(const std::vector<StepResult>& results) {
  int64_t total = 0;
  int64_t most = 0;
  for (const StepResult& result : results) {
    total += result.num_expert_rows;
    most = std::max(most, result.num_expert_rows);
  }
  if (most == 0) return 1;
  return static_cast<double>(total) /
         (static_cast<double>(most) * static_cast<double>(results.size()));
}

/// Drives a group through the tests of one batch. Owned by RunBatch.
class BatchRun {
 public:
  BatchRun(LocalEngineGroup& group, const BenchOptions& options, int32_t batch,
           const ModelConfig& config)
      : group_(group),
        num_generated_tokens_(options.num_generated_tokens),
        config_(config),
        planner_(options, batch, static_cast<int32_t>(config.vocab_size)) {}

  void Restart(uint64_t seed) { planner_.Restart(seed); }

  absl::StatusOr<TestSample> Run(BenchTest test) {
    switch (test) {
      case BenchTest::kPrefill:
        return Steps([this] { return planner_.PlanPrompt(); });
      case BenchTest::kMixed:
        return Steps([this] { return planner_.PlanMixed(); });
      case BenchTest::kGeneration:
        break;
    }
    return Steps([this, num_left = num_generated_tokens_]() mutable -> std::optional<BenchStep> {
      if (num_left-- <= 0) return std::nullopt;
      return planner_.PlanGeneration();
    });
  }

 private:
  absl::StatusOr<TestSample> Steps(const std::function<std::optional<BenchStep>()>& plan) {
    TestSample sample;
    while (true) {
      const Clock::time_point begin = Clock::now();
      const std::optional<BenchStep> step = plan();
      if (!step) break;
      const double plan_seconds = SecondsSince(begin);
      MOED_ASSIGN_OR_RETURN(const std::vector<StepResult> results, group_.Execute(step->plans));
      sample.seconds += SecondsSince(begin);
      sample.plan_seconds += plan_seconds;
      sample.load += step->load;
      Observe(results, sample);
    }
    if (sample.num_steps > 0) {
      sample.distinct_experts /= sample.num_steps;
      sample.balancedness /= sample.num_steps;
    }
    return sample;
  }

  void Observe(const std::vector<StepResult>& results, TestSample& sample) const {
    ++sample.num_steps;
    sample.distinct_experts += DistinctExperts(results, config_);
    sample.balancedness += Balancedness(results);
    for (const StepResult& result : results) {
      AddTimes(result.times, 1.0 / static_cast<double>(results.size()), sample.times);
    }
  }

  LocalEngineGroup& group_;
  const int32_t num_generated_tokens_;
  const ModelConfig& config_;
  BenchPlanner planner_;
};

/// Touches all memory and wakes all threads without taking as long as a measured run.
absl::Status WarmUp(LocalEngineGroup& group, BenchOptions options, int32_t batch,
                    const ModelConfig& config) {
  const int32_t per_sequence = std::max(1, MaxPromptTokensPerStep(options) / batch);
  options.num_prompt_tokens = std::min(options.num_prompt_tokens, per_sequence);
  options.num_generated_tokens = std::min(options.num_generated_tokens, 2);
  BatchRun run(group, options, batch, config);
  MOED_RETURN_IF_ERROR(run.Run(BenchTest::kPrefill).status());
  return run.Run(BenchTest::kGeneration).status();
}

}  // namespace

absl::StatusOr<std::vector<TestSamples>> RunBatch(LocalEngineGroup& group,
                                                  const BenchOptions& options, int32_t batch,
                                                  const ModelConfig& config, ReadProbe* probe) {
  MOED_RETURN_IF_ERROR(WarmUp(group, options, batch, config));
  std::vector<TestSamples> tests;
  for (BenchTest test : {BenchTest::kPrefill, BenchTest::kGeneration, BenchTest::kMixed}) {
    tests.push_back({.test = test, .batch = batch});
  }
  BatchRun run(group, options, batch, config);
  for (int32_t i = 0; i < options.num_repetitions; ++i) {
    run.Restart(options.seed + static_cast<uint64_t>(i));
    double read_before = probe == nullptr ? 0 : probe->Measure();
    for (TestSamples& test : tests) {
      MOED_ASSIGN_OR_RETURN(TestSample sample, run.Run(test.test));
      const double read_after = probe == nullptr ? 0 : probe->Measure();
      sample.read_bytes_per_s = (read_before + read_after) / 2;
      read_before = read_after;
      test.samples.push_back(sample);
    }
  }
  std::erase_if(tests, [](const TestSamples& t) { return t.samples.front().num_steps == 0; });
  return tests;
}

}  // namespace moed
