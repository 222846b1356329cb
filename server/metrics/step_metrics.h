#pragma once

#include <string>
#include <vector>

#include "engine/api/expert_placement.h"
#include "server/metrics/imbalance.h"
#include "server/metrics/metric_registry.h"
#include "server/metrics/metrics_sink.h"
#include "server/metrics/step_totals.h"

namespace moed {

/// What a step costs and where, by its phase: on the whole, in the exchange, on each rank.
///
/// Owned by PrometheusMetrics; step loop's thread. Everything is looked up once, at the start: a
/// step then only adds to numbers.
class StepMetrics {
 public:
  /// `transport` is a label: how rows get from rank to rank, e.g. "shm".
  StepMetrics(MetricRegistry& registry, const ExpertPlacement& placement,
              const std::string& transport);

  void OnStep(const StepOutcome& outcome);

 private:
  struct OfPhase {
    prometheus::Histogram& duration;
    prometheus::Histogram& tokens;
    prometheus::Histogram& route;
    prometheus::Histogram& experts;
    prometheus::Gauge& balancedness;
  };
  struct OfExchange {  // one of dispatch and combine, in one phase
    BatchHistogram seconds;
    BatchHistogram wait_seconds;
  };
  struct OfRank {  // in one phase
    prometheus::Counter& rows;
    prometheus::Counter& dispatch_wait;
    prometheus::Counter& combine_wait;
    std::vector<prometheus::Counter*> stages;  // as kStepStages
  };

  void AddPhase(MetricRegistry& registry, const std::string& phase, const std::string& transport);
  void AddRank(MetricRegistry& registry, const std::string& phase, int32_t rank);
  void ObserveResults(const std::vector<StepResult>& results, size_t phase);
  void ObserveExchange(const std::vector<StepResult>& results, size_t phase);

  const size_t num_ranks_;
  ImbalanceMeter imbalance_;
  std::vector<OfPhase> phases_;        // as kStepPhases
  std::vector<OfExchange> exchanges_;  // [phase * 2]: dispatch, combine
  std::vector<OfRank> ranks_;          // [phase * num_ranks + rank]
  prometheus::Counter& dispatch_bytes_;
  prometheus::Counter& combine_bytes_;
  prometheus::Histogram& plan_time_;
  BatchHistogram inter_token_latency_;
  BatchHistogram rank_imbalance_;
  BatchHistogram expert_imbalance_;
  std::vector<double> values_;  // of one batch
};

}  // namespace moed
