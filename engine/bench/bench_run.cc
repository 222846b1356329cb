#include "engine/bench/bench_run.h"

#include <algorithm>
#include <chrono>
#include <random>

#include "config/base/status_macros.h"

namespace moed {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

void AddTimes(const StepTimes& from, double weight, StepTimes& to) {
  to.attention += weight * from.attention;
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

/// Drives a group through one batch. Owned by RunBatch.
class BatchRun {
 public:
  BatchRun(LocalEngineGroup& group, const BenchOptions& options, int32_t batch,
           const ModelConfig& config)
      : group_(group),
        batch_(batch),
        config_(config),
        rng_(options.seed),
        num_computed_(batch, 0) {}

  absl::StatusOr<PhaseSample> Prompt(int32_t num_prompt_tokens) {
    std::fill(num_computed_.begin(), num_computed_.end(), 0);
    return Phase(num_prompt_tokens);
  }

  absl::StatusOr<PhaseSample> Generation(int32_t num_tokens) {
    PhaseSample sum;
    for (int32_t i = 0; i < num_tokens; ++i) {
      MOED_ASSIGN_OR_RETURN(const PhaseSample step, Phase(num_computed_[0] + 1));
      Accumulate(step, sum);
    }
    return sum;
  }

 private:
  /// Steps until every sequence has `target` positions computed.
  absl::StatusOr<PhaseSample> Phase(int32_t target) {
    PhaseSample sample;
    while (std::any_of(num_computed_.begin(), num_computed_.end(),
                       [target](int32_t n) { return n < target; })) {
      const Clock::time_point begin = Clock::now();
      const std::vector<StepPlan> plans = MakePlans(target, sample.num_tokens);
      const double plan_seconds = SecondsSince(begin);
      MOED_ASSIGN_OR_RETURN(const std::vector<StepResult> results, group_.Execute(plans));
      sample.seconds += SecondsSince(begin);
      sample.plan_seconds += plan_seconds;
      Observe(results, sample);
    }
    return sample;
  }

  std::vector<StepPlan> MakePlans(int32_t target, int64_t& num_tokens) {
    std::vector<StepPlan> plans(group_.num_ranks());
    std::vector<int32_t> tokens_per_rank(group_.num_ranks(), 0);
    for (int32_t id = 0; id < batch_; ++id) {
      const int32_t rank = id % group_.num_ranks();
      const int32_t room = group_.info(rank).max_tokens_per_step - tokens_per_rank[rank];
      const int32_t num_new = std::min(target - num_computed_[id], room);
      if (num_new <= 0) continue;
      plans[rank].slices.push_back(MakeSlice(id, num_new, target));
      tokens_per_rank[rank] += num_new;
      num_tokens += num_new;
    }
    for (StepPlan& plan : plans) {
      plan.step_id = num_steps_;
      plan.num_tokens_per_rank = tokens_per_rank;
    }
    ++num_steps_;
    return plans;
  }

  Slice MakeSlice(int32_t id, int32_t num_new, int32_t target) {
    Slice slice{.sequence_id = static_cast<uint64_t>(id), .start_position = num_computed_[id]};
    std::uniform_int_distribution<int32_t> any_token(0,
                                                     static_cast<int32_t>(config_.vocab_size) - 1);
    for (int32_t i = 0; i < num_new; ++i) slice.token_ids.push_back(any_token(rng_));
    num_computed_[id] += num_new;
    // Each sequence has a fixed range of blocks, the same in every repetition.
    const EngineInfo& info = group_.info(id % group_.num_ranks());
    const int32_t blocks_per_sequence = info.num_blocks / info.max_sequences_per_step;
    const int32_t first_block = id / group_.num_ranks() * blocks_per_sequence;
    const int32_t num_blocks = (num_computed_[id] + info.block_size - 1) / info.block_size;
    for (int32_t i = 0; i < num_blocks; ++i) slice.block_table.push_back(first_block + i);
    if (num_computed_[id] == target) {
      slice.sample = SampleRequest{.params = {.temperature = 0.0f}, .position = target};
    }
    return slice;
  }

  void Observe(const std::vector<StepResult>& results, PhaseSample& sample) const {
    PhaseSample step{.num_steps = 1,
                     .distinct_experts = DistinctExperts(results, config_),
                     .balancedness = Balancedness(results)};
    for (const StepResult& result : results) {
      AddTimes(result.times, 1.0 / static_cast<double>(results.size()), step.times);
    }
    Accumulate(step, sample);
  }

  static void Accumulate(const PhaseSample& from, PhaseSample& to) {
    const double total_steps = to.num_steps + from.num_steps;
    const auto weighted_mean = [&](double a, double b) {
      return (a * to.num_steps + b * from.num_steps) / total_steps;
    };
    to.distinct_experts = weighted_mean(to.distinct_experts, from.distinct_experts);
    to.balancedness = weighted_mean(to.balancedness, from.balancedness);
    to.num_tokens += from.num_tokens;
    to.num_steps += from.num_steps;
    to.seconds += from.seconds;
    to.plan_seconds += from.plan_seconds;
    AddTimes(from.times, 1.0, to.times);
  }

  LocalEngineGroup& group_;
  const int32_t batch_;
  const ModelConfig& config_;
  std::mt19937_64 rng_;
  uint64_t num_steps_ = 0;
  std::vector<int32_t> num_computed_;  // [batch]
};

}  // namespace

absl::StatusOr<BatchSamples> RunBatch(LocalEngineGroup& group, const BenchOptions& options,
                                      int32_t batch, const ModelConfig& config) {
  BatchRun run(group, options, batch, config);
  MOED_RETURN_IF_ERROR(run.Prompt(std::min(options.num_prompt_tokens, 16)).status());
  MOED_RETURN_IF_ERROR(run.Generation(std::min(options.num_generated_tokens, 2)).status());

  BatchSamples samples{.batch = batch};
  for (int32_t i = 0; i < options.num_repetitions; ++i) {
    MOED_ASSIGN_OR_RETURN(const PhaseSample prompt, run.Prompt(options.num_prompt_tokens));
    MOED_ASSIGN_OR_RETURN(const PhaseSample generation,
                          run.Generation(options.num_generated_tokens));
    samples.prompt.push_back(prompt);
    samples.generation.push_back(generation);
  }
  return samples;
}

}  // namespace moed
