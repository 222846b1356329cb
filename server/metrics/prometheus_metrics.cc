#include "server/metrics/prometheus_metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <vector>

#include "absl/synchronization/mutex.h"

namespace moed {
namespace {

using prometheus::Counter;
using prometheus::Family;
using prometheus::Gauge;
using prometheus::Histogram;
using prometheus::Labels;
using Buckets = Histogram::BucketBoundaries;

Buckets RequestBuckets() {  // seconds
  return {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
          1,     2.5,    5,     10,   20,    40,   80,  160,  640};
}

Buckets StepBuckets() {  // seconds
  return {0.00001, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.03,
          0.05,    0.075,  0.1,     0.2,    0.3,   0.5,    0.75,  1,    2.5,  10};
}

Buckets TokenBuckets() {  // tokens of one step
  return {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384};
}

constexpr const char* kPhases[] = {"prefill", "decode", "mixed"};

// Which of kPhases a step is.
size_t Phase(const StepOutcome& outcome) {
  if (outcome.num_prefill_tokens == 0) return 1;
  return outcome.num_prefill_tokens == outcome.num_tokens ? 0 : 2;
}

// The code that the client got for a result of RequestOutcome.
std::string CodeOf(std::string_view result) {
  if (result == "stop" || result == "length") return "OK";
  if (result == "cancelled") return "CANCELLED";
  if (result == "deadline") return "DEADLINE_EXCEEDED";
  return "UNAVAILABLE";
}

// The server counts since its start; a Prometheus counter takes differences.
void Raise(Counter& counter, int64_t total) {
  const double delta = static_cast<double>(total) - counter.Value();
  if (delta > 0) counter.Increment(delta);
}

void Observe(Histogram& histogram, absl::Duration duration) {
  histogram.Observe(absl::ToDoubleSeconds(duration));
}

double Balancedness(const std::vector<StepResult>& results) {
  int64_t sum = 0;
  int64_t max = 0;
  for (const StepResult& result : results) {
    sum += result.num_expert_rows;
    max = std::max(max, result.num_expert_rows);
  }
  if (max == 0) return 0;
  return static_cast<double>(sum) / static_cast<double>(results.size()) / static_cast<double>(max);
}

}  // namespace

// All metrics, by where they are updated.
struct PrometheusMetrics::Families {
  explicit Families(const Params& params);

  Family<Counter>& Counters(const std::string& name, const std::string& help) {
    return prometheus::BuildCounter().Name(name).Help(help).Labels(labels).Register(registry);
  }
  Family<Gauge>& Gauges(const std::string& name, const std::string& help) {
    return prometheus::BuildGauge().Name(name).Help(help).Labels(labels).Register(registry);
  }
  Family<Histogram>& Histograms(const std::string& name, const std::string& help) {
    return prometheus::BuildHistogram().Name(name).Help(help).Labels(labels).Register(registry);
  }
  Counter& OneCounter(const std::string& name, const std::string& help) {
    return Counters(name, help).Add({});
  }
  Gauge& OneGauge(const std::string& name, const std::string& help) {
    return Gauges(name, help).Add({});
  }
  Histogram& RequestSeconds(const std::string& name, const std::string& help) {
    return Histograms(name, help).Add({}, RequestBuckets());
  }

  void UpdateGauges(const ServerStats& stats);
  void UpdateCounters(const ServerStats& stats);
  void ObserveStep(const StepOutcome& outcome);
  void ObserveExchange(const std::vector<StepResult>& results, size_t phase);

  absl::Mutex raise_mutex;
  prometheus::Registry registry;
  const Labels labels;

  struct Rank {
    Gauge& up;
    Gauge& running;
    Gauge& kv_cache_usage;
    Counter* tokens[3];  // by phase
  };
  struct Exchange {
    Histogram& seconds;
    Histogram& wait_seconds;
    Counter& bytes;
  };
  struct PhaseOfStep {
    Histogram& duration;
    Histogram& tokens;
    Gauge& balancedness;
  };

  Gauge& running = OneGauge("moed_requests_running", "Sequences being computed.");
  Gauge& waiting = OneGauge("moed_requests_waiting", "Sequences waiting to be computed.");
  Gauge& kv_cache_usage =
      OneGauge("moed_kv_cache_usage_ratio", "Used part of the KV blocks of all ranks, 0 to 1.");
  Counter& prompt_tokens = OneCounter("moed_prompt_tokens_total", "Prompt tokens taken in.");
  Counter& generation_tokens = OneCounter("moed_generation_tokens_total", "Tokens generated.");
  Counter& prefix_queries =
      OneCounter("moed_prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache.");
  Counter& prefix_hits =
      OneCounter("moed_prefix_cache_hits_total", "Prompt tokens found in the prefix cache.");
  Counter& preemptions =
      OneCounter("moed_preemptions_total", "Sequences set back to waiting for lack of KV blocks.");
  Counter& restarts = OneCounter("moed_group_restarts_total", "Restarts of the engine group.");
  Gauge& placement_epoch =
      OneGauge("moed_eplb_placement_version", "Epoch of the expert placement in use.");

  Family<Counter>& requests =
      Counters("moed_requests_total", "Requests that ended, by how they ended.");
  Family<Counter>& rejected =
      Counters("moed_admission_rejected_total", "Requests refused before they were queued.");
  Histogram& time_to_first_token = RequestSeconds("moed_time_to_first_token_seconds",
                                                  "From arrival to the first generated token.");
  Histogram& inter_token_latency =
      Histograms("moed_inter_token_latency_seconds", "Between generated tokens of a sequence.")
          .Add({}, StepBuckets());
  Histogram& time_per_output_token =
      Histograms("moed_request_time_per_output_token_seconds",
                 "Mean time of a request's generated tokens after the first.")
          .Add({}, StepBuckets());
  Histogram& e2e_latency =
      RequestSeconds("moed_e2e_request_latency_seconds", "From arrival to the end.");
  Histogram& queue_time =
      RequestSeconds("moed_request_queue_time_seconds", "From arrival to the first step.");
  Histogram& prefill_time = RequestSeconds("moed_request_prefill_time_seconds",
                                           "From the first step to the first token.");
  Histogram& decode_time =
      RequestSeconds("moed_request_decode_time_seconds", "From the first token to the end.");

  Histogram& plan_time =
      Histograms("moed_step_plan_seconds", "Planning one step.").Add({}, StepBuckets());
  Family<Counter>& grpc_handled =
      Counters("moed_grpc_server_handled_total", "RPCs answered, by status code.");
  Family<Histogram>& grpc_handling =
      Histograms("moed_grpc_server_handling_seconds", "From an RPC's arrival to its answer's end.");

  std::vector<PhaseOfStep> phases;  // as kPhases
  std::vector<Exchange> exchanges;  // dispatch, combine
  std::vector<Rank> ranks;
};

PrometheusMetrics::Families::Families(const Params& params)
    : labels({{"model_name", params.model_name}}) {
  Gauges("moed_build_info", "Always 1; the label says which build runs.")
      .Add({{"version", params.version}})
      .Set(1);
  Gauges("moed_cache_config_info", "Always 1; the labels say how the KV memory of a rank is cut.")
      .Add({{"block_size", std::to_string(params.block_size)},
            {"num_gpu_blocks", std::to_string(params.num_blocks)}})
      .Set(1);
  for (const char* phase : kPhases) {
    phases.push_back(
        {Histograms("moed_step_duration_seconds", "One step over all ranks.")
             .Add({{"phase", phase}}, StepBuckets()),
         Histograms("moed_step_tokens", "Tokens computed in one step over all ranks.")
             .Add({{"phase", phase}}, TokenBuckets()),
         Gauges("moed_moe_balancedness_ratio",
                "Mean / max of expert rows per rank in the last such step; 1 is perfect.")
             .Add({{"phase", phase}})});
  }
  for (const char* op : {"dispatch", "combine"}) {
    exchanges.push_back(
        {Histograms("moed_moe_all2all_seconds", "All-to-alls of one rank and step, with waiting.")
             .Add({{"op", op}}, StepBuckets()),
         Histograms("moed_moe_all2all_wait_seconds", "The part spent waiting for other ranks.")
             .Add({{"op", op}}, StepBuckets()),
         Counters("moed_moe_all2all_bytes_total", "Bytes sent to other ranks.").Add({{"op", op}})});
  }
  for (int32_t rank = 0; rank < params.num_ranks; ++rank) {
    const std::string name = std::to_string(rank);
    auto& tokens =
        Counters("moed_moe_rank_tokens_total", "Rows computed by the experts of a rank.");
    ranks.push_back(
        {Gauges("moed_rank_up", "1 while the rank serves.").Add({{"ep_rank", name}}),
         Gauges("moed_rank_sequences_running", "Sequences being computed by one rank.")
             .Add({{"ep_rank", name}}),
         Gauges("moed_rank_kv_cache_usage_ratio", "Used part of one rank's KV blocks, 0 to 1.")
             .Add({{"ep_rank", name}}),
         {&tokens.Add({{"ep_rank", name}, {"phase", kPhases[0]}}),
          &tokens.Add({{"ep_rank", name}, {"phase", kPhases[1]}}),
          &tokens.Add({{"ep_rank", name}, {"phase", kPhases[2]}})}});
  }
}

void PrometheusMetrics::Families::UpdateGauges(const ServerStats& stats) {
  running.Set(stats.num_running_sequences);
  waiting.Set(stats.num_waiting_sequences);
  placement_epoch.Set(static_cast<double>(stats.placement_epoch));
  double num_used = 0;
  double num_blocks = 0;
  for (size_t r = 0; r < std::min(stats.ranks.size(), ranks.size()); ++r) {
    const RankStats& rank = stats.ranks[r];
    const double used = rank.num_blocks - rank.num_free_blocks;
    ranks[r].running.Set(rank.num_running_sequences);
    ranks[r].kv_cache_usage.Set(rank.num_blocks > 0 ? used / rank.num_blocks : 0);
    num_used += used;
    num_blocks += rank.num_blocks;
  }
  kv_cache_usage.Set(num_blocks > 0 ? num_used / num_blocks : 0);
}

void PrometheusMetrics::Families::UpdateCounters(const ServerStats& stats) {
  absl::MutexLock lock(&raise_mutex);  // reading and raising must be one
  Raise(prompt_tokens, stats.num_prompt_tokens);
  Raise(generation_tokens, stats.num_generated_tokens);
  Raise(prefix_queries, stats.prefix_cache_queries);
  Raise(prefix_hits, stats.prefix_cache_hits);
  Raise(preemptions, stats.num_preemptions);
  Raise(restarts, stats.num_group_restarts);
}

void PrometheusMetrics::Families::ObserveStep(const StepOutcome& outcome) {
  const size_t phase = Phase(outcome);
  Observe(phases[phase].duration, outcome.step_time);
  phases[phase].tokens.Observe(outcome.num_tokens);
  Observe(plan_time, outcome.plan_time);
  for (const double seconds : outcome.inter_token_seconds) inter_token_latency.Observe(seconds);
  if (outcome.results != nullptr) ObserveExchange(*outcome.results, phase);
}

void PrometheusMetrics::Families::ObserveExchange(const std::vector<StepResult>& results,
                                                  size_t phase) {
  phases[phase].balancedness.Set(Balancedness(results));
  for (size_t r = 0; r < std::min(results.size(), ranks.size()); ++r) {
    const StepResult& result = results[r];
    ranks[r].tokens[phase]->Increment(static_cast<double>(result.num_expert_rows));
    exchanges[0].seconds.Observe(result.times.dispatch);
    exchanges[0].wait_seconds.Observe(result.times.dispatch_wait);
    exchanges[0].bytes.Increment(static_cast<double>(result.dispatch_bytes));
    exchanges[1].seconds.Observe(result.times.combine);
    exchanges[1].wait_seconds.Observe(result.times.combine_wait);
    exchanges[1].bytes.Increment(static_cast<double>(result.combine_bytes));
  }
}

PrometheusMetrics::PrometheusMetrics(const Params& params)
    : families_(std::make_unique<Families>(params)) {}

PrometheusMetrics::~PrometheusMetrics() = default;

void PrometheusMetrics::OnStep(const StepOutcome& outcome, const ServerStats& stats) {
  Refresh(stats);
  families_->ObserveStep(outcome);
}

void PrometheusMetrics::OnRequestEnd(const RequestOutcome& outcome) {
  families_->requests
      .Add({{"api", "moed.v1"},
            {"finish_reason", std::string(outcome.result)},
            {"code", CodeOf(outcome.result)}})
      .Increment();
  Observe(families_->e2e_latency, outcome.total_time);
  if (outcome.num_generated_tokens < 1) return;  // it never got far enough for the rest
  Observe(families_->queue_time, outcome.queue_time);
  Observe(families_->prefill_time, outcome.prefill_time);
  Observe(families_->decode_time, outcome.decode_time);
  Observe(families_->time_to_first_token, outcome.time_to_first_token);
  if (outcome.num_generated_tokens < 2) return;
  Observe(families_->time_per_output_token,
          outcome.decode_time / (outcome.num_generated_tokens - 1));
}

void PrometheusMetrics::OnRejected(std::string_view reason) {
  families_->rejected.Add({{"reason", std::string(reason)}}).Increment();
}

void PrometheusMetrics::OnStateChange(ServingState state) {
  const bool up = state == ServingState::kServing || state == ServingState::kDraining;
  for (auto& rank : families_->ranks) rank.up.Set(up ? 1 : 0);
}

void PrometheusMetrics::OnRpcHandled(const RpcOutcome& outcome) {
  const Labels method = {{"grpc_service", std::string(outcome.service)},
                         {"grpc_method", std::string(outcome.method)}};
  Labels with_code = method;
  with_code.emplace("grpc_code", absl::StatusCodeToString(outcome.code));
  families_->grpc_handled.Add(with_code).Increment();
  Observe(families_->grpc_handling.Add(method, RequestBuckets()), outcome.duration);
}

void PrometheusMetrics::Refresh(const ServerStats& stats) {
  families_->UpdateGauges(stats);
  families_->UpdateCounters(stats);
}

std::string PrometheusMetrics::Text() const {
  return prometheus::TextSerializer().Serialize(families_->registry.Collect());
}

}  // namespace moed
