#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "server/metrics/metrics_sink.h"
#include "server/metrics/rpc_observer.h"
#include "server/metrics/server_stats.h"

namespace moed {

/// The daemon's metrics in a Prometheus registry.
///
/// Owned by the daemon. The step loop reports to it once a step and once a request, the RPC
/// handlers once a call; Text() is called from the HTTP threads. Every metric is an atomic, so all
/// of it may go on at once.
class PrometheusMetrics final : public MetricsSink, public RpcObserver {
 public:
  /// What is known before the first step.
  struct Params {
    std::string model_name;  // a label on everything
    std::string version;
    int32_t num_ranks = 1;
    int32_t block_size = 0;
    int32_t num_blocks = 0;  // of one rank
  };
  explicit PrometheusMetrics(const Params& params);
  ~PrometheusMetrics() override;

  // MetricsSink
  void OnStep(const StepOutcome& outcome, const ServerStats& stats) override;
  void OnRequestEnd(const RequestOutcome& outcome) override;
  void OnRejected(std::string_view reason) override;
  void OnStateChange(ServingState state) override;

  // RpcObserver
  void OnRpcHandled(const RpcOutcome& outcome) override;

  /// Brings gauges and counters up to date, for a scrape while no step runs. Any thread.
  void Refresh(const ServerStats& stats);

  /// All metrics in Prometheus' text format.
  std::string Text() const;

 private:
  struct Families;

  const std::unique_ptr<Families> families_;
};

}  // namespace moed
