#include "client/load/report/run_summary.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_format.h"

namespace moed::load {
namespace {

constexpr double kNsPerMs = 1e6;
constexpr double kNsPerS = 1e9;
constexpr int64_t kMaxBatches = 20;
constexpr int64_t kMinPerBatch = 5;

double TpotNs(const RequestRecord& record) {
  if (record.num_output_tokens < 2) return 0;
  return static_cast<double>(record.last_token_ns - record.first_token_ns) /
         (record.num_output_tokens - 1);
}

bool IsGood(const RequestRecord& record, const ServiceLevel& slo) {
  const auto keeps = [](const std::optional<double>& limit_ms, double ns) {
    return !limit_ms.has_value() || ns <= *limit_ms * kNsPerMs;
  };
  return keeps(slo.ttft_ms, static_cast<double>(record.first_token_ns - record.intended_ns)) &&
         keeps(slo.tpot_ms, TpotNs(record)) &&
         keeps(slo.e2el_ms, static_cast<double>(record.last_token_ns - record.intended_ns));
}

void CountOutcome(const RequestRecord& record, const RunRecording& recording, RunSummary& out) {
  switch (record.outcome) {
    case RequestOutcome::kCompleted:
      break;
    case RequestOutcome::kCancelled:
      ++out.num_cancelled;
      break;
    case RequestOutcome::kDeadline:
      ++out.num_deadline;
      break;
    case RequestOutcome::kFailed:
      ++out.num_failed;
      break;
    case RequestOutcome::kUnfinished:
      ++out.num_unfinished;
      break;
  }
  if (record.error >= 0) ++out.errors[recording.errors()[static_cast<size_t>(record.error)]];
}

void AddRequests(const RunRecording& recording, const ServiceLevel& slo, RunSummary& out) {
  int64_t end_ns = 0;
  for (const RequestRecord& record : recording.records()) {
    if (!recording.Counts(record)) continue;
    end_ns = std::max(end_ns, record.end_ns);
    CountOutcome(record, recording, out);
    out.lag.Add(record.sent_ns - std::max(record.intended_ns, record.eligible_ns));
    if (record.slow_reader) ++out.num_slow_readers;
    if (record.outcome != RequestOutcome::kCompleted) continue;
    out.figures.Add(record, slo);
    const auto turn = static_cast<size_t>(record.turn);
    if (turn >= kMaxTurns) continue;
    if (turn >= out.of_turn.size()) out.of_turn.resize(turn + 1);
    out.of_turn[turn].Add(record, slo);
  }
  out.begin_s = static_cast<double>(recording.params().warmup_ns) / kNsPerS;
  out.duration_s = std::max(0.0, static_cast<double>(end_ns) / kNsPerS - out.begin_s);
}

void AddRates(RunSummary& out) {
  const auto per_second = [&](int64_t count) {
    return out.duration_s > 0 ? static_cast<double>(count) / out.duration_s : 0;
  };
  out.request_throughput = per_second(out.figures.num_completed);
  out.request_goodput = per_second(out.figures.num_good);
  out.input_throughput = per_second(out.figures.num_input_tokens);
  out.output_throughput = per_second(out.figures.num_output_tokens);
  for (const RunSecond& second : out.seconds) {
    out.max_output_tokens_per_s =
        std::max(out.max_output_tokens_per_s, static_cast<double>(second.num_tokens));
  }
}

// The number of requests in flight, from the times at which each began and ended.
void AddConcurrency(const RunRecording& recording, RunSummary& out) {
  std::vector<std::pair<int64_t, int>> changes;
  for (const RequestRecord& record : recording.records()) {
    changes.emplace_back(record.sent_ns, 1);
    changes.emplace_back(record.end_ns, -1);
  }
  std::sort(changes.begin(), changes.end());
  out.sent_in_second.assign(out.seconds.size(), 0);
  out.in_flight.assign(out.seconds.size(), 0);
  int64_t current = 0;
  size_t second = 0;
  for (const auto& [at_ns, change] : changes) {
    const auto at = std::min(static_cast<size_t>(at_ns / static_cast<int64_t>(kNsPerS)),
                             out.seconds.size() - 1);
    for (; second < at; ++second) out.in_flight[second] = current;
    if (change > 0) ++out.sent_in_second[at];
    current += change;
    out.max_concurrent_requests = std::max(out.max_concurrent_requests, current);
  }
}

// From when the requests in flight reach 90 % of their median until nothing more is sent, in whole
// seconds.
void FindSteadyState(RunSummary& out) {
  const auto last = static_cast<size_t>(std::max(0.0, std::floor(out.sending_s)));
  const size_t num_seconds = std::min(last, out.in_flight.size());
  if (num_seconds < 2) return;
  std::vector<int64_t> sorted(out.in_flight.begin(),
                              out.in_flight.begin() + static_cast<std::ptrdiff_t>(num_seconds));
  std::sort(sorted.begin(), sorted.end());
  const double plateau = 0.9 * static_cast<double>(sorted[sorted.size() / 2]);
  size_t first = static_cast<size_t>(std::ceil(out.begin_s));
  while (first < num_seconds && static_cast<double>(out.in_flight[first]) < plateau) ++first;
  // in_flight[i] is at the end of second i.
  if (static_cast<double>(first) > out.begin_s || first == 0) ++first;
  out.steady.begin_s = static_cast<double>(first);
  out.steady.end_s = static_cast<double>(num_seconds);
}

void AddSteadyState(const RunRecording& recording, const ServiceLevel& slo, RunSummary& out) {
  FindSteadyState(out);
  SteadyState& steady = out.steady;
  const double length = steady.end_s - steady.begin_s;
  if (length <= 0) return;
  int64_t num_completed = 0;
  for (const RequestRecord& record : recording.records()) {
    if (record.outcome != RequestOutcome::kCompleted) continue;
    const auto is_within = [&](int64_t ns) {
      return static_cast<double>(ns) >= steady.begin_s * kNsPerS &&
             static_cast<double>(ns) < steady.end_s * kNsPerS;
    };
    if (is_within(record.end_ns)) ++num_completed;
    if (is_within(record.intended_ns)) steady.figures.Add(record, slo);
  }
  int64_t num_tokens = 0;
  for (auto i = static_cast<size_t>(steady.begin_s); i < static_cast<size_t>(steady.end_s); ++i) {
    num_tokens += out.seconds[i].num_tokens;
  }
  steady.request_throughput = static_cast<double>(num_completed) / length;
  steady.output_throughput = static_cast<double>(num_tokens) / length;
}

// The method of batch means: figures of equal stretches of the sending time, which depend on each
// other far less than single requests do.
void AddBatches(const RunRecording& recording, const ServiceLevel& slo, RunSummary& out) {
  const int64_t num_batches = std::min(kMaxBatches, out.figures.num_completed / kMinPerBatch);
  const double seconds = (out.sending_s - out.begin_s) / static_cast<double>(num_batches);
  if (num_batches < 2 || !(seconds > 0)) return;
  std::vector<RequestFigures> batches(static_cast<size_t>(num_batches));
  for (const RequestRecord& record : recording.records()) {
    if (record.outcome != RequestOutcome::kCompleted || !recording.Counts(record)) continue;
    const double at = (static_cast<double>(record.intended_ns) / kNsPerS - out.begin_s) / seconds;
    const auto index = static_cast<int64_t>(at);
    batches[static_cast<size_t>(std::clamp<int64_t>(index, 0, num_batches - 1))].Add(record, slo);
  }
  for (const RequestFigures& batch : batches) {
    if (batch.num_completed == 0) continue;
    for (const auto& [name, value] : ComparedFigures(batch, seconds)) {
      out.samples[name].push_back(value);
    }
  }
}

void JudgeClient(const ClientLimits& limits, RunSummary& out) {
  const double lag_ms = out.lag.Percentile(99) / kNsPerMs;
  const double ttft_ms = out.figures.ttft_from_send.Percentile(50) / kNsPerMs;
  const double most_ms = std::max(limits.lag_ms, limits.lag_of_ttft * ttft_ms);
  if (lag_ms > most_ms) {
    out.invalid_reasons.push_back(
        absl::StrFormat("the client sent late: 99th percentile of the schedule lag %.2f ms, at "
                        "most %.2f ms expected",
                        lag_ms, most_ms));
  }
  if (out.worker_cpu_share > limits.cpu_share) {
    out.invalid_reasons.push_back(absl::StrFormat(
        "the client was busy: a worker thread used %.0f %% of a CPU, at most %.0f %% "
        "expected; raise --threads",
        100 * out.worker_cpu_share, 100 * limits.cpu_share));
  }
  if (out.figures.num_completed + out.num_cancelled + out.num_deadline == 0) {
    out.invalid_reasons.push_back("no request was completed");
  }
}

}  // namespace

void RequestFigures::Add(const RequestRecord& record, const ServiceLevel& slo) {
  ++num_completed;
  num_input_tokens += record.num_prompt_tokens;
  num_cached_tokens += record.num_cached_tokens;
  num_output_tokens += record.num_output_tokens;
  if (record.slow_reader) return;
  if (IsGood(record, slo)) ++num_good;
  ttft.Add(record.first_token_ns - record.intended_ns);
  e2el.Add(record.last_token_ns - record.intended_ns);
  ttft_from_send.Add(record.first_token_ns - record.sent_ns);
  e2el_from_send.Add(record.last_token_ns - record.sent_ns);
  if (record.num_output_tokens > 1) tpot.Add(std::llround(TpotNs(record)));
  queue.Add(std::llround(static_cast<double>(record.queue_s) * kNsPerS));
}

void RequestFigures::Merge(const RequestFigures& other) {
  num_completed += other.num_completed;
  num_good += other.num_good;
  num_input_tokens += other.num_input_tokens;
  num_cached_tokens += other.num_cached_tokens;
  num_output_tokens += other.num_output_tokens;
  ttft.Merge(other.ttft);
  tpot.Merge(other.tpot);
  e2el.Merge(other.e2el);
  ttft_from_send.Merge(other.ttft_from_send);
  e2el_from_send.Merge(other.e2el_from_send);
  queue.Merge(other.queue);
}

RunSummary Summarize(const RunResult& result, const ServiceLevel& slo, const ClientLimits& limits) {
  RunSummary out;
  out.seconds = result.recording.seconds();
  out.itl = result.recording.itl();
  out.itl_per_token = result.recording.itl_per_token();
  out.sending_s = result.sending_seconds;
  out.num_unsent = result.num_unsent;
  out.num_cut_prompts = result.num_cut_prompts;
  out.worker_cpu_share = result.worker_cpu_share;
  out.process_cpu_seconds = result.process_cpu_seconds;
  out.is_interrupted = result.is_interrupted;
  AddRequests(result.recording, slo, out);
  AddRates(out);
  if (!out.seconds.empty()) AddConcurrency(result.recording, out);
  AddSteadyState(result.recording, slo, out);
  AddBatches(result.recording, slo, out);
  JudgeClient(limits, out);
  return out;
}

RunSummary Combine(const std::vector<RunSummary>& runs) {
  RunSummary all = runs.back();
  all.samples.clear();
  all.samples_are_runs = true;
  for (const RunSummary& run : runs) {
    for (const auto& [name, value] : ComparedFigures(run.figures, run.duration_s)) {
      all.samples[name].push_back(value);
    }
    if (&run == &runs.back()) continue;
    all.duration_s += run.duration_s;
    all.figures.Merge(run.figures);
    all.itl.Merge(run.itl);
    all.itl_per_token.Merge(run.itl_per_token);
    all.lag.Merge(run.lag);
    all.num_failed += run.num_failed;
    all.num_cancelled += run.num_cancelled;
    all.num_deadline += run.num_deadline;
    all.num_unfinished += run.num_unfinished;
    all.num_unsent += run.num_unsent;
    all.num_slow_readers += run.num_slow_readers;
    all.num_cut_prompts += run.num_cut_prompts;
    all.of_turn.resize(std::max(all.of_turn.size(), run.of_turn.size()));
    for (size_t i = 0; i < run.of_turn.size(); ++i) all.of_turn[i].Merge(run.of_turn[i]);
    for (const auto& [error, count] : run.errors) all.errors[error] += count;
    all.worker_cpu_share = std::max(all.worker_cpu_share, run.worker_cpu_share);
    all.process_cpu_seconds += run.process_cpu_seconds;
    all.max_concurrent_requests =
        std::max(all.max_concurrent_requests, run.max_concurrent_requests);
    all.invalid_reasons.insert(all.invalid_reasons.end(), run.invalid_reasons.begin(),
                               run.invalid_reasons.end());
  }
  AddRates(all);
  for (const RunSummary& run : runs) {
    all.max_output_tokens_per_s =
        std::max(all.max_output_tokens_per_s, run.max_output_tokens_per_s);
  }
  return all;
}

double Attainment(const RunSummary& summary) {
  const int64_t asked = summary.figures.ttft.count() + summary.num_failed + summary.num_deadline +
                        summary.num_unfinished + summary.num_unsent;
  return asked > 0 ? static_cast<double>(summary.figures.num_good) / static_cast<double>(asked) : 0;
}

std::map<std::string, double> ComparedFigures(const RequestFigures& figures, double seconds) {
  std::map<std::string, double> values;
  const auto add = [&values](const std::string& name, const Histogram& latency) {
    if (latency.count() == 0) return;
    values["mean_" + name + "_ms"] = latency.Mean() / kNsPerMs;
    values["p99_" + name + "_ms"] = latency.Percentile(99) / kNsPerMs;
  };
  add("ttft", figures.ttft);
  add("tpot", figures.tpot);
  add("e2el", figures.e2el);
  if (seconds > 0) {
    values["request_throughput"] = static_cast<double>(figures.num_completed) / seconds;
    values["request_goodput"] = static_cast<double>(figures.num_good) / seconds;
    values["output_throughput"] = static_cast<double>(figures.num_output_tokens) / seconds;
  }
  return values;
}

}  // namespace moed::load
