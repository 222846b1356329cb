#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "config/daemon_config.h"
#include "engine/api/engine.h"
#include "server/auth/reloaded_secrets.h"
#include "server/launch_plan.h"
#include "server/metrics/metrics_http_server.h"
#include "server/metrics/prometheus_metrics.h"
#include "server/metrics/rank_view.h"
#include "server/rpc/rpc_server.h"
#include "server/service_notifier.h"
#include "server/step_loop.h"
#include "server/supervisor/process_engine_group.h"

namespace moed {

/// The daemon: the only place that makes the server's objects and connects them.
///
/// Owned by main(). Members are in the order in which they depend on each other, so that
/// destruction takes them apart from the outside in.
class Daemon {
 public:
  /// Reads what it must and listens; nothing is loaded yet. SIGINT and SIGTERM must be blocked.
  static absl::StatusOr<std::unique_ptr<Daemon>> Create(const DaemonConfig& config);

  Daemon(const Daemon&) = delete;
  Daemon& operator=(const Daemon&) = delete;
  ~Daemon();

  /// Loads and serves until a signal ends it: then new requests are refused, and what runs is
  /// finished within drain_timeout_s, else cancelled. A second signal ends the process at once,
  /// with exit code 1. An error is why the daemon could not go on.
  absl::Status Run();

 private:
  Daemon(const DaemonConfig& config, LaunchPlan plan);

  absl::Status LoadSecrets();
  absl::Status Listen();
  void LogListening() const;
  absl::Status ListenForMetrics();
  void OnSignal(int signal);
  void OnStateChange(ServingState state);
  void OnReady();
  absl::Status WriteReadyFile() const;
  std::vector<RankView> Ranks() const;
  void AwaitEnd();
  void Drain();

  const DaemonConfig config_;
  const LaunchPlan plan_;
  const absl::Time started_;
  std::unique_ptr<ServiceNotifier> notifier_;  // null without a service manager
  std::unique_ptr<ReloadedSecrets> secrets_;
  PrometheusMetrics metrics_;
  ProcessEngineGroup engines_;
  std::unique_ptr<StepLoop> loop_;
  std::unique_ptr<RpcServer> rpc_server_;
  std::unique_ptr<MetricsHttpServer> http_server_;  // null when off

  mutable absl::Mutex mutex_;
  std::vector<EngineInfo> infos_ ABSL_GUARDED_BY(mutex_);  // [num_ranks] once they have loaded
  bool was_ready_ ABSL_GUARDED_BY(mutex_) = false;
  int num_signals_ ABSL_GUARDED_BY(mutex_) = 0;
  bool loop_ended_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace moed
