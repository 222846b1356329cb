#include "server/metrics/prometheus_metrics.h"

#include <prometheus/text_serializer.h>

#include <iterator>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "server/metrics/metric_registry.h"
#include "server/metrics/process_metrics.h"
#include "server/metrics/request_metrics.h"
#include "server/metrics/state_metrics.h"
#include "server/metrics/step_metrics.h"
#include "server/metrics/vllm_aliases.h"

namespace moed {

struct PrometheusMetrics::Parts {
  explicit Parts(const Params& params)
      : vllm_names(params.vllm_names),
        registry(params.model_name),
        requests(registry),
        steps(registry, params.placement, params.transport),
        grpc_handled(
            registry.Counters("moed_grpc_server_handled_total", "RPCs answered, by status code.")),
        grpc_handling(registry.Histograms("moed_grpc_server_handling_seconds",
                                          "From an RPC's arrival to its answer's end.")),
        streams(registry.OneGauge("moed_grpc_streams", "Generate calls that are not done.")),
        stream_backlog(registry.OneGauge("moed_grpc_stream_backlog_bytes",
                                         "What was generated and clients have not taken yet.")),
        state(registry, params.placement, params.moe_layers),
        process(registry) {
    registry.Gauges("moed_build_info", "Always 1; the label says which build runs.")
        .Add({{"version", params.version}})
        .Set(1);
    registry
        .Gauges("moed_cache_config_info",
                "Always 1; the labels say how the KV memory of a rank is cut.")
        .Add({{"block_size", std::to_string(params.block_size)},
              {"num_gpu_blocks", std::to_string(params.num_blocks)}})
        .Set(1);
  }

  const VllmNames vllm_names;
  MetricRegistry registry;
  RequestMetrics requests;
  StepMetrics steps;
  prometheus::Family<prometheus::Counter>& grpc_handled;
  prometheus::Family<prometheus::Histogram>& grpc_handling;
  prometheus::Gauge& streams;
  prometheus::Gauge& stream_backlog;
  absl::Mutex mutex;  // reading a total and raising a counter to it must be one
  StateMetrics state ABSL_GUARDED_BY(mutex);
  ProcessMetrics process ABSL_GUARDED_BY(mutex);
};

PrometheusMetrics::PrometheusMetrics(const Params& params)
    : parts_(std::make_unique<Parts>(params)) {}

PrometheusMetrics::~PrometheusMetrics() = default;

void PrometheusMetrics::OnStep(const StepOutcome& outcome) { parts_->steps.OnStep(outcome); }

void PrometheusMetrics::OnRequestEnd(const RequestOutcome& outcome) {
  parts_->requests.OnRequestEnd(outcome);
}

void PrometheusMetrics::OnRejected(std::string_view reason) { parts_->requests.OnRejected(reason); }

void PrometheusMetrics::OnRpcHandled(const RpcOutcome& outcome) {
  const MetricLabels method = {{"grpc_service", std::string(outcome.service)},
                               {"grpc_method", std::string(outcome.method)}};
  MetricLabels with_code = method;
  with_code.emplace("grpc_code", absl::StatusCodeToString(outcome.code));
  parts_->grpc_handled.Add(with_code).Increment();
  parts_->grpc_handling.Add(method, RequestSecondsBuckets())
      .Observe(absl::ToDoubleSeconds(outcome.duration));
}

void PrometheusMetrics::Refresh(const ServerStats& stats, const std::vector<RankView>& ranks) {
  absl::MutexLock lock(&parts_->mutex);
  parts_->state.Update(stats, absl::Now());
  parts_->state.UpdateRanks(ranks);
  parts_->process.Update();
}

void PrometheusMetrics::RefreshStreams(const StreamStats& streams) {
  parts_->streams.Set(streams.num_streams);
  parts_->stream_backlog.Set(static_cast<double>(streams.num_pending_bytes));
}

std::string PrometheusMetrics::Text() const {
  std::vector<prometheus::MetricFamily> families = parts_->registry.Collect();
  if (parts_->vllm_names == VllmNames::kOn) {
    std::vector<prometheus::MetricFamily> aliases = VllmAliases(families);
    families.insert(families.end(), std::make_move_iterator(aliases.begin()),
                    std::make_move_iterator(aliases.end()));
  }
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace moed
