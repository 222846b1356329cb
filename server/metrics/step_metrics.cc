#include "server/metrics/step_metrics.h"

#include "server/placement/balancedness.h"

namespace moed {
namespace {

// Which of kStepPhases a step is.
size_t PhaseOf(const StepOutcome& outcome) {
  if (outcome.num_prefill_tokens == 0) return 1;
  return outcome.num_prefill_tokens == outcome.num_tokens ? 0 : 2;
}

MetricBuckets ImbalanceBuckets() {  // max / mean
  return {1, 1.05, 1.1, 1.2, 1.35, 1.5, 1.75, 2, 2.5, 3, 4, 6, 8, 12, 16, 32, 64, 128};
}

prometheus::Counter& ExchangeBytes(MetricRegistry& registry, const char* op) {
  return registry.Counters("moed_moe_all2all_bytes_total", "Bytes sent to other ranks.")
      .Add({{"op", op}});
}

BatchHistogram Imbalance(MetricRegistry& registry, const char* scope) {
  return {registry
              .Histograms("moed_moe_imbalance_ratio",
                          "Max / mean of rows, per layer and step, over ranks or over experts.")
              .Add({{"scope", scope}}, ImbalanceBuckets()),
          ImbalanceBuckets()};
}

BatchHistogram StepSeconds(prometheus::Family<prometheus::Histogram>& family,
                           const MetricLabels& labels) {
  return {family.Add(labels, StepSecondsBuckets()), StepSecondsBuckets()};
}

}  // namespace

StepMetrics::StepMetrics(MetricRegistry& registry, const ExpertPlacement& placement,
                         const std::string& transport)
    : num_ranks_(static_cast<size_t>(placement.num_ranks)),
      imbalance_(placement),
      dispatch_bytes_(ExchangeBytes(registry, "dispatch")),
      combine_bytes_(ExchangeBytes(registry, "combine")),
      plan_time_(registry.OneHistogram("moed_step_plan_seconds", "Planning one step.",
                                       StepSecondsBuckets())),
      inter_token_latency_(
          StepSeconds(registry.Histograms("moed_inter_token_latency_seconds",
                                          "Between generated tokens of a sequence."),
                      {})),
      rank_imbalance_(Imbalance(registry, "rank")),
      expert_imbalance_(Imbalance(registry, "expert")) {
  for (const char* phase : kStepPhases) AddPhase(registry, phase, transport);
  for (const char* phase : kStepPhases) {
    for (int32_t rank = 0; rank < placement.num_ranks; ++rank) AddRank(registry, phase, rank);
  }
}

void StepMetrics::AddPhase(MetricRegistry& registry, const std::string& phase,
                           const std::string& transport) {
  const auto seconds = [&](const char* name, const char* help) -> prometheus::Histogram& {
    return registry.Histograms(name, help).Add({{"phase", phase}}, StepSecondsBuckets());
  };
  phases_.push_back(
      {.duration = seconds("moed_step_duration_seconds", "One step over all ranks."),
       .tokens = registry.Histograms("moed_step_tokens", "Tokens computed in one step.")
                     .Add({{"phase", phase}}, TokenCountBuckets()),
       .route = seconds("moed_moe_route_seconds", "Routers of one rank and step."),
       .experts = seconds("moed_moe_expert_gemm_seconds", "Experts of one rank and step."),
       .balancedness = registry
                           .Gauges("moed_moe_balancedness_ratio",
                                   "Mean / max of rows per rank in the last step; 1 is perfect.")
                           .Add({{"phase", phase}})});
  auto& all = registry.Histograms("moed_moe_all2all_seconds",
                                  "All-to-alls of one rank and step, waiting included.");
  auto& waits = registry.Histograms("moed_moe_all2all_wait_seconds",
                                    "The part of them spent waiting for the slowest rank.");
  for (const char* op : {"dispatch", "combine"}) {
    exchanges_.push_back(
        {StepSeconds(all, {{"op", op}, {"phase", phase}, {"transport", transport}}),
         StepSeconds(waits, {{"op", op}, {"phase", phase}})});
  }
}

void StepMetrics::AddRank(MetricRegistry& registry, const std::string& phase, int32_t rank) {
  const std::string name = std::to_string(rank);
  auto& waits = registry.Counters("moed_moe_rank_wait_seconds_total",
                                  "Time a rank spent waiting for slower ones in the exchange.");
  auto& stages = registry.Counters("moed_step_stage_seconds_total",
                                   "Time of a rank's steps by stage, waiting included.");
  auto& ranks = ranks_.emplace_back(OfRank{
      .rows =
          registry.Counters("moed_moe_rank_tokens_total", "Rows computed by the experts of a rank.")
              .Add({{"ep_rank", name}, {"phase", phase}}),
      .dispatch_wait = waits.Add({{"ep_rank", name}, {"op", "dispatch"}, {"phase", phase}}),
      .combine_wait = waits.Add({{"ep_rank", name}, {"op", "combine"}, {"phase", phase}}),
      .stages = {}});
  for (const StepStage& stage : kStepStages) {
    ranks.stages.push_back(
        &stages.Add({{"ep_rank", name}, {"phase", phase}, {"stage", stage.name}}));
  }
}

void StepMetrics::OnStep(const StepOutcome& outcome) {
  const size_t phase = PhaseOf(outcome);
  phases_[phase].duration.Observe(absl::ToDoubleSeconds(outcome.step_time));
  phases_[phase].tokens.Observe(outcome.num_tokens);
  plan_time_.Observe(absl::ToDoubleSeconds(outcome.plan_time));
  inter_token_latency_.Observe(outcome.inter_token_seconds);
  imbalance_.Measure(outcome.tokens_per_expert);
  rank_imbalance_.Observe(imbalance_.of_ranks());
  expert_imbalance_.Observe(imbalance_.of_experts());
  if (outcome.results == nullptr || outcome.results->size() != num_ranks_) return;
  ObserveResults(*outcome.results, phase);
  ObserveExchange(*outcome.results, phase);
}

void StepMetrics::ObserveResults(const std::vector<StepResult>& results, size_t phase) {
  values_.clear();
  for (const StepResult& result : results) {
    values_.push_back(static_cast<double>(result.num_expert_rows));
  }
  phases_[phase].balancedness.Set(Balancedness(values_));
  for (size_t rank = 0; rank < num_ranks_; ++rank) {
    const StepResult& result = results[rank];
    const OfRank& metrics = ranks_[phase * num_ranks_ + rank];
    metrics.rows.Increment(static_cast<double>(result.num_expert_rows));
    metrics.dispatch_wait.Increment(result.times.dispatch_wait);
    metrics.combine_wait.Increment(result.times.combine_wait);
    for (size_t i = 0; i < metrics.stages.size(); ++i) {
      metrics.stages[i]->Increment(result.times.*kStepStages[i].seconds);
    }
    phases_[phase].route.Observe(result.times.route);
    phases_[phase].experts.Observe(result.times.experts);
  }
}

void StepMetrics::ObserveExchange(const std::vector<StepResult>& results, size_t phase) {
  const auto observe = [&](BatchHistogram& histogram, double StepTimes::*seconds) {
    values_.clear();
    for (const StepResult& result : results) values_.push_back(result.times.*seconds);
    histogram.Observe(values_);
  };
  observe(exchanges_[phase * 2].seconds, &StepTimes::dispatch);
  observe(exchanges_[phase * 2].wait_seconds, &StepTimes::dispatch_wait);
  observe(exchanges_[phase * 2 + 1].seconds, &StepTimes::combine);
  observe(exchanges_[phase * 2 + 1].wait_seconds, &StepTimes::combine_wait);
  for (const StepResult& result : results) {
    dispatch_bytes_.Increment(static_cast<double>(result.dispatch_bytes));
    combine_bytes_.Increment(static_cast<double>(result.combine_bytes));
  }
}

}  // namespace moed
