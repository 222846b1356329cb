// What planning costs: seconds that the scheduler takes to plan a step and to apply its results
// while no engine works. Prints one line for each load; run it on an idle machine.

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "server/scheduler/scheduler.h"

namespace moed {
namespace {

struct Load {
  int32_t num_ranks = 1;
  int32_t num_sequences = 64;  // of each rank
  int32_t num_prompt = 1000;
  bool uses_penalties = false;
};

std::vector<StepResult> Answer(const PlannedStep& step) {
  std::vector<StepResult> results;
  for (const StepPlan& plan : step.plans) {
    StepResult& result = results.emplace_back(StepResult{.step_id = plan.step_id});
    for (const Slice& slice : plan.slices) {
      if (slice.sample) result.sampled.push_back({.sequence_id = slice.sequence_id, .token_id = 7});
    }
  }
  return results;
}

void Run(const Load& load) {
  Scheduler scheduler({.num_blocks = std::vector<int32_t>(load.num_ranks, 16384),
                       .block_size = 16,
                       .max_model_len = 8192,
                       .max_tokens_per_step = 4096,
                       .max_sequences_per_step = load.num_sequences,
                       .vocab_size = 150000});
  std::vector<std::unique_ptr<Request>> requests;
  for (int32_t i = 0; i < load.num_ranks * load.num_sequences; ++i) {
    Request& request = *requests.emplace_back(std::make_unique<Request>());
    request.id = std::to_string(i);
    for (int32_t t = 0; t < load.num_prompt; ++t) request.prompt_token_ids.push_back(i * 131 + t);
    request.stopping.max_tokens = 4000;
    request.sampling.frequency_penalty = load.uses_penalties ? 0.5f : 0.0f;
    if (!scheduler.Add(request).ok()) std::abort();
  }
  constexpr int kSteps = 1000;
  absl::Duration plan_time, apply_time;
  for (int step = -200; step < kSteps; ++step) {  // the first ones prefill
    const absl::Time start = absl::Now();
    const auto planned = scheduler.Plan(start);
    const absl::Time end = absl::Now();
    const auto results = Answer(*planned);
    const absl::Time apply_start = absl::Now();
    if (!scheduler.Apply(results).ok()) std::abort();
    if (step < 0) continue;
    plan_time += end - start;
    apply_time += absl::Now() - apply_start;
  }
  std::printf(
      "ranks %d  decoding sequences per rank %d  penalties %d  plan %.1f us  apply %.1f us\n",
      load.num_ranks, load.num_sequences, load.uses_penalties,
      absl::ToDoubleMicroseconds(plan_time) / kSteps,
      absl::ToDoubleMicroseconds(apply_time) / kSteps);
}

}  // namespace
}  // namespace moed

int main() {
  moed::Run({.num_ranks = 1, .num_sequences = 64});
  moed::Run({.num_ranks = 4, .num_sequences = 64});
  moed::Run({.num_ranks = 1, .num_sequences = 64, .uses_penalties = true});
  return 0;
}
