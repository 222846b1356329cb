#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/api/expert_placement.h"
#include "server/metrics/expert_window.h"
#include "server/metrics/metric_registry.h"
#include "server/metrics/rank_view.h"
#include "server/metrics/server_stats.h"

namespace moed {

/// What can be read at the moment of a scrape, and so costs nothing until then: totals and gauges
/// of the daemon, of its ranks, and of the experts of each layer.
///
/// Owned by PrometheusMetrics and guarded by its mutex.
class StateMetrics {
 public:
  /// `moe_layers` are the MoE layers' indices in the model, in the order of the placement.
  StateMetrics(MetricRegistry& registry, const ExpertPlacement& placement,
               std::span<const int32_t> moe_layers);

  void Update(const ServerStats& stats, absl::Time now);
  void UpdateRanks(const std::vector<RankView>& ranks);

 private:
  static constexpr size_t kNumTopExperts = 8;

  struct OfRank {
    prometheus::Gauge& up;
    prometheus::Gauge& running;
    prometheus::Gauge& kv_cache_usage;
    prometheus::Gauge& weights_loaded;
    prometheus::Gauge& weight_bytes;
    prometheus::Gauge& kv_bytes;
    prometheus::Gauge& exchange_bytes;
    prometheus::Gauge& workspace_bytes;
    prometheus::Counter& restarts;
  };
  struct OfLayer {
    std::vector<prometheus::Gauge*> top_shares;  // at most kNumTopExperts, the largest first
    prometheus::Gauge& balancedness;
  };

  void AddRank(MetricRegistry& registry, int32_t rank);
  void AddLayer(MetricRegistry& registry, const ExpertPlacement::Layer& layer, int32_t index);
  void UpdateLoad(const ServerStats& stats, absl::Time now);
  void UpdateCounters(const ServerStats& stats);
  void UpdateExperts(const ServerStats& stats, absl::Time now);

  const ExpertPlacement placement_;
  ExpertWindow window_;
  std::vector<OfRank> ranks_;
  std::vector<OfLayer> layers_;
  std::vector<prometheus::Gauge*> states_;  // one for each ServingState
  prometheus::Gauge& running_;
  prometheus::Gauge& waiting_;
  prometheus::Gauge& requests_;
  prometheus::Gauge& kv_cache_usage_;
  prometheus::Gauge& step_in_progress_;
  prometheus::Gauge& placement_version_;
  prometheus::Counter& prompt_tokens_;
  prometheus::Counter& generation_tokens_;
  prometheus::Counter& prefix_queries_;
  prometheus::Counter& prefix_hits_;
  prometheus::Counter& preemptions_;
  prometheus::Counter& group_restarts_;
};

}  // namespace moed
