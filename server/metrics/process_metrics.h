#pragma once

#include <string>

#include "server/metrics/metric_registry.h"

namespace moed {

/// What the operating system says of this process, under the names that Prometheus' own clients
/// use.
///
/// Owned by PrometheusMetrics and guarded by its mutex.
class ProcessMetrics {
 public:
  /// `proc` is the process's directory in a proc file system; another one in tests.
  explicit ProcessMetrics(MetricRegistry& registry, std::string proc = "/proc/self");

  /// Reads the files; what cannot be read keeps its value.
  void Update();

 private:
  const std::string proc_;
  prometheus::Counter& cpu_seconds_;
  prometheus::Gauge& resident_bytes_;
  prometheus::Gauge& virtual_bytes_;
  prometheus::Gauge& start_time_;
  prometheus::Gauge& threads_;
  prometheus::Gauge& open_fds_;
  prometheus::Gauge& max_fds_;
};

}  // namespace moed
