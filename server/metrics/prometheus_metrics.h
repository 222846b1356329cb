#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/api/expert_placement.h"
#include "server/metrics/metrics_sink.h"
#include "server/metrics/rank_view.h"
#include "server/metrics/rpc_observer.h"
#include "server/metrics/server_stats.h"

namespace moed {

/// The daemon's metrics in a Prometheus registry.
///
/// Owned by the daemon. The step loop reports to it once a step and once a request, the RPC
/// handlers once a call; a scrape, from an HTTP thread, refreshes what is only read then. Every
/// metric is an atomic, so all of it may go on at once.
class PrometheusMetrics final : public MetricsSink, public RpcObserver {
 public:
  enum class VllmNames : uint8_t { kOff, kOn };

  /// What is known before the first step.
  struct Params {
    std::string model_name;  // a label on everything
    std::string version;
    std::string transport;  // how rows get from rank to rank: "shm", "nccl", "none", ...
    ExpertPlacement placement;
    std::vector<int32_t> moe_layers;  // [num_moe_layers] their indices in the model
    int32_t block_size = 0;
    int32_t num_blocks = 0;  // of one rank
    VllmNames vllm_names = VllmNames::kOff;
  };
  explicit PrometheusMetrics(const Params& params);
  ~PrometheusMetrics() override;

  // MetricsSink
  void OnStep(const StepOutcome& outcome) override;
  void OnRequestEnd(const RequestOutcome& outcome) override;
  void OnRejected(std::string_view reason) override;
  void OnStateChange(ServingState) override {}  // a scrape reads the state

  // RpcObserver
  void OnRpcHandled(const RpcOutcome& outcome) override;

  /// These bring gauges and totals up to date: call them before Text(). Any thread.
  void Refresh(const ServerStats& stats, const std::vector<RankView>& ranks);
  void RefreshStreams(const StreamStats& streams);

  /// All metrics in Prometheus' text format.
  std::string Text() const;

 private:
  struct Parts;

  const std::unique_ptr<Parts> parts_;
};

}  // namespace moed
