#pragma once

#include <string_view>

#include "server/metrics/metric_registry.h"
#include "server/metrics/metrics_sink.h"

namespace moed {

/// What clients get: requests by how they ended, refusals, latencies.
///
/// Owned by PrometheusMetrics; any thread.
class RequestMetrics {
 public:
  explicit RequestMetrics(MetricRegistry& registry);

  void OnRequestEnd(const RequestOutcome& outcome);
  void OnRejected(std::string_view reason);

 private:
  prometheus::Counter& Requests(std::string_view result);
  prometheus::Counter& Rejected(std::string_view reason);
  void ObserveTimes(const RequestOutcome& outcome);

  prometheus::Family<prometheus::Counter>& requests_;
  prometheus::Family<prometheus::Counter>& rejected_;
  prometheus::Histogram& time_to_first_token_;
  prometheus::Histogram& time_per_output_token_;
  prometheus::Histogram& e2e_latency_;
  prometheus::Histogram& queue_time_;
  prometheus::Histogram& prefill_time_;
  prometheus::Histogram& decode_time_;
  prometheus::Histogram& inference_time_;
  prometheus::Histogram& prompt_tokens_;
  prometheus::Histogram& generation_tokens_;
};

}  // namespace moed
