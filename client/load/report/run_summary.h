#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "client/load/stats/histogram.h"
#include "client/load/stream/load_run.h"

namespace moed::load {

/// Limits that a request has to keep to count as good; what is not set is not asked.
struct ServiceLevel {
  std::optional<double> ttft_ms;
  std::optional<double> tpot_ms;
  std::optional<double> e2el_ms;

  bool IsSet() const { return ttft_ms.has_value() || tpot_ms.has_value() || e2el_ms.has_value(); }
};

/// When a run says more about this client than about the server.
struct ClientLimits {
  double lag_ms = 1;          // of the 99th percentile, and...
  double lag_of_ttft = 0.05;  // ...as a part of the median TTFT: the larger one counts
  double cpu_share = 0.8;     // of the busiest worker thread
};

/// Requests of one stretch of a run, and their latencies in nanoseconds.
struct RequestFigures {
  int64_t num_completed = 0;
  int64_t num_good = 0;
  int64_t num_input_tokens = 0;
  int64_t num_cached_tokens = 0;
  int64_t num_output_tokens = 0;
  Histogram ttft;  // from the intended send time
  Histogram tpot;
  Histogram e2el;
  Histogram ttft_from_send;  // from the actual one
  Histogram e2el_from_send;
  Histogram queue;  // as the server tells

  void Add(const RequestRecord& record, const ServiceLevel& slo);
  void Merge(const RequestFigures& other);
};

struct SteadyState {
  double begin_s = 0;
  double end_s = 0;  // not above begin_s: there was none
  double request_throughput = 0;
  double output_throughput = 0;
  RequestFigures figures;
};

/// A run in figures; the latencies and rates are those of the requests after the warm-up.
struct RunSummary {
  double begin_s = 0;  // of what counts
  double duration_s = 0;
  double sending_s = 0;
  RequestFigures figures;
  Histogram itl;
  Histogram itl_per_token;
  Histogram lag;  // between what could have been sent and when it was
  int64_t num_failed = 0;
  int64_t num_cancelled = 0;
  int64_t num_deadline = 0;
  int64_t num_unfinished = 0;
  int64_t num_unsent = 0;
  int64_t num_slow_readers = 0;
  int64_t num_cut_prompts = 0;
  std::map<std::string, int64_t> errors;
  double request_throughput = 0;
  double request_goodput = 0;
  double input_throughput = 0;
  double output_throughput = 0;
  double max_output_tokens_per_s = 0;
  int64_t max_concurrent_requests = 0;
  std::vector<RequestFigures> of_turn;  // at most kMaxTurns of them
  std::vector<RunSecond> seconds;
  std::vector<int64_t> sent_in_second;  // by the actual time
  std::vector<int64_t> in_flight;       // at the end of each second
  SteadyState steady;
  std::map<std::string, std::vector<double>> samples;  // of figures that compare, by stretch or run
  bool samples_are_runs = false;
  double worker_cpu_share = 0;
  double process_cpu_seconds = 0;
  bool is_interrupted = false;
  std::vector<std::string> invalid_reasons;  // empty: the run is valid
};

inline constexpr size_t kMaxTurns = 16;

RunSummary Summarize(const RunResult& result, const ServiceLevel& slo, const ClientLimits& limits);

/// Several runs as one: requests and latencies of all together, rates over the sum of their times;
/// the timeline and the steady state are those of the last one. The samples are one per run.
RunSummary Combine(const std::vector<RunSummary>& runs);

/// Part of the completed, failed and late requests that were good; 1 without service level.
double Attainment(const RunSummary& summary);

/// "mean_ttft_ms" and the like with their values, as they are compared between runs.
std::map<std::string, double> ComparedFigures(const RequestFigures& figures, double seconds);

}  // namespace moed::load
