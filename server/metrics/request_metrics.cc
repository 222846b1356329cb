#include "server/metrics/request_metrics.h"

#include <string>

namespace moed {
namespace {

// What RequestOutcome::result may be, and the code that the client got for it.
constexpr struct {
  std::string_view result;
  const char* code;
} kResults[] = {{"stop", "OK"},
                {"length", "OK"},
                {"cancelled", "CANCELLED"},
                {"deadline", "DEADLINE_EXCEEDED"},
                {"error", "UNAVAILABLE"}};

const char* CodeOf(std::string_view result) {
  for (const auto& known : kResults) {
    if (known.result == result) return known.code;
  }
  return "UNAVAILABLE";
}

// These are there from the start, at zero: a rate that appears with its first event misses it.
constexpr std::string_view kReasons[] = {"queue_full", "tenant_queue_full", "too_long",
                                         "loading",    "draining",          "stopped"};

void Observe(prometheus::Histogram& histogram, absl::Duration duration) {
  histogram.Observe(absl::ToDoubleSeconds(duration));
}

}  // namespace

RequestMetrics::RequestMetrics(MetricRegistry& registry)
    : requests_(registry.Counters("moed_requests_total", "Requests that ended.")),
      rejected_(registry.Counters("moed_admission_rejected_total", "Requests refused.")),
      time_to_first_token_(registry.OneHistogram("moed_time_to_first_token_seconds",
                                                 "From arrival to the first generated token.",
                                                 RequestSecondsBuckets())),
      time_per_output_token_(registry.OneHistogram(
          "moed_request_time_per_output_token_seconds",
          "Mean time of a request's generated tokens after the first.", StepSecondsBuckets())),
      e2e_latency_(registry.OneHistogram("moed_e2e_request_latency_seconds",
                                         "From arrival to the end.", RequestSecondsBuckets())),
      queue_time_(registry.OneHistogram("moed_request_queue_time_seconds",
                                        "From arrival to the first step.",
                                        RequestSecondsBuckets())),
      prefill_time_(registry.OneHistogram("moed_request_prefill_time_seconds",
                                          "From the first step to the first token.",
                                          RequestSecondsBuckets())),
      decode_time_(registry.OneHistogram("moed_request_decode_time_seconds",
                                         "From the first token to the end.",
                                         RequestSecondsBuckets())),
      inference_time_(registry.OneHistogram("moed_request_inference_time_seconds",
                                            "From the first step to the end.",
                                            RequestSecondsBuckets())),
      prompt_tokens_(registry.OneHistogram("moed_request_prompt_tokens",
                                           "Prompt tokens of a request that ended.",
                                           TokenCountBuckets())),
      generation_tokens_(registry.OneHistogram(
          "moed_request_generation_tokens",
          "Tokens generated for a request that ended, over its sequences.", TokenCountBuckets())) {
  for (const auto& known : kResults) Requests(known.result);
  for (const std::string_view reason : kReasons) Rejected(reason);
}

prometheus::Counter& RequestMetrics::Requests(std::string_view result) {
  return requests_.Add(
      {{"api", "moed.v1"}, {"finish_reason", std::string(result)}, {"code", CodeOf(result)}});
}

prometheus::Counter& RequestMetrics::Rejected(std::string_view reason) {
  return rejected_.Add({{"reason", std::string(reason)}});
}

void RequestMetrics::OnRequestEnd(const RequestOutcome& outcome) {
  Requests(outcome.result).Increment();
  Observe(e2e_latency_, outcome.total_time);
  if (outcome.num_generated_tokens > 0) ObserveTimes(outcome);  // else it never got that far
}

void RequestMetrics::ObserveTimes(const RequestOutcome& outcome) {
  prompt_tokens_.Observe(outcome.num_prompt_tokens);
  generation_tokens_.Observe(outcome.num_generated_tokens);
  Observe(queue_time_, outcome.queue_time);
  Observe(prefill_time_, outcome.prefill_time);
  Observe(decode_time_, outcome.decode_time);
  Observe(inference_time_, outcome.prefill_time + outcome.decode_time);
  Observe(time_to_first_token_, outcome.time_to_first_token);
  if (outcome.num_generated_tokens < 2) return;
  Observe(time_per_output_token_, outcome.decode_time / (outcome.num_generated_tokens - 1));
}

void RequestMetrics::OnRejected(std::string_view reason) { Rejected(reason).Increment(); }

}  // namespace moed
