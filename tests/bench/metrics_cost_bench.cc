// What the metrics cost: CPU time that the step loop spends on them for one step, and that of a
// scrape, for models of several shapes. Prints one line for each.

#include <time.h>

#include <cstdio>
#include <numeric>
#include <vector>

#include "absl/time/time.h"
#include "server/metrics/prometheus_metrics.h"

namespace moed {
namespace {

struct Shape {
  const char* name = "";
  int32_t num_layers = 4;
  int32_t num_experts = 16;
  int32_t num_ranks = 2;
  int32_t num_sequences = 64;  // over all ranks, each with one token a step
};

ServerStats StatsOf(const Shape& shape) {
  ServerStats stats{.state = ServingState::kServing};
  stats.ranks.assign(static_cast<size_t>(shape.num_ranks),
                     {.num_blocks = 100, .num_free_blocks = 50});
  stats.tokens_per_expert.resize(static_cast<size_t>(shape.num_layers) * shape.num_experts);
  std::iota(stats.tokens_per_expert.begin(), stats.tokens_per_expert.end(), 1);
  return stats;
}

// What this thread has computed so far: others on the machine count less than by the clock.
absl::Duration CpuTime() {
  timespec time = {};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return absl::DurationFromTimespec(time);
}

template <typename Work>
double Microseconds(int num_times, const Work& work) {
  work();
  const absl::Duration start = CpuTime();
  for (int i = 0; i < num_times; ++i) work();
  return absl::ToDoubleMicroseconds(CpuTime() - start) / num_times;
}

void Run(const Shape& shape) {
  std::vector<int32_t> moe_layers(static_cast<size_t>(shape.num_layers));
  std::iota(moe_layers.begin(), moe_layers.end(), 0);
  PrometheusMetrics metrics(
      {.model_name = shape.name,
       .transport = "shm",
       .placement = ExpertPlacement::Linear(shape.num_layers, shape.num_experts, shape.num_ranks),
       .moe_layers = moe_layers});
  const ServerStats stats = StatsOf(shape);
  const std::vector<RankView> ranks(static_cast<size_t>(shape.num_ranks));
  std::vector<StepResult> results(static_cast<size_t>(shape.num_ranks));
  for (StepResult& result : results) {
    result.num_expert_rows = 1000;
    result.times = {.attention = 0.01, .dispatch = 0.002, .experts = 0.01, .total = 0.03};
  }
  const StepOutcome outcome{
      .num_tokens = shape.num_sequences,
      .plan_time = absl::Microseconds(20),
      .step_time = absl::Milliseconds(30),
      .inter_token_seconds = std::vector<double>(static_cast<size_t>(shape.num_sequences), 0.03),
      .results = &results,
      .tokens_per_expert = stats.tokens_per_expert};
  const double step = Microseconds(2000, [&] { metrics.OnStep(outcome); });
  size_t num_bytes = 0;
  const double scrape = Microseconds(20, [&] {
    metrics.Refresh(stats, ranks);
    num_bytes = metrics.Text().size();
  });
  std::printf(
      "%-14s layers %2d  experts %3d  ranks %d  sequences %3d  step %6.1f us  scrape %7.0f us  "
      "%4zu KiB\n",
      shape.name, shape.num_layers, shape.num_experts, shape.num_ranks, shape.num_sequences, step,
      scrape, num_bytes >> 10);
}

}  // namespace
}  // namespace moed

int main() {
  moed::Run({.name = "demo", .num_layers = 4, .num_experts = 16, .num_ranks = 2});
  moed::Run({.name = "qwen3-30b-a3b", .num_layers = 48, .num_experts = 128, .num_ranks = 4});
  moed::Run({.name = "deepseek-v3",
             .num_layers = 58,
             .num_experts = 256,
             .num_ranks = 8,
             .num_sequences = 512});
  return 0;
}
