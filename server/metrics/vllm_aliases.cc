#include "server/metrics/vllm_aliases.h"

#include <string>
#include <string_view>

namespace moed {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;

// Under the names of vLLM's engine v1; the last ones are what dashboards of older versions ask for.
constexpr struct {
  std::string_view moed;
  const char* vllm;
} kAliases[] = {
    {"moed_requests_running", "vllm:num_requests_running"},
    {"moed_requests_waiting", "vllm:num_requests_waiting"},
    {"moed_kv_cache_usage_ratio", "vllm:kv_cache_usage_perc"},
    {"moed_cache_config_info", "vllm:cache_config_info"},
    {"moed_prompt_tokens_total", "vllm:prompt_tokens_total"},
    {"moed_generation_tokens_total", "vllm:generation_tokens_total"},
    {"moed_prefix_cache_queries_total", "vllm:prefix_cache_queries_total"},
    {"moed_prefix_cache_hits_total", "vllm:prefix_cache_hits_total"},
    {"moed_preemptions_total", "vllm:num_preemptions_total"},
    {"moed_requests_total", "vllm:request_success_total"},
    {"moed_time_to_first_token_seconds", "vllm:time_to_first_token_seconds"},
    {"moed_inter_token_latency_seconds", "vllm:inter_token_latency_seconds"},
    {"moed_request_time_per_output_token_seconds", "vllm:request_time_per_output_token_seconds"},
    {"moed_e2e_request_latency_seconds", "vllm:e2e_request_latency_seconds"},
    {"moed_request_queue_time_seconds", "vllm:request_queue_time_seconds"},
    {"moed_request_prefill_time_seconds", "vllm:request_prefill_time_seconds"},
    {"moed_request_decode_time_seconds", "vllm:request_decode_time_seconds"},
    {"moed_request_inference_time_seconds", "vllm:request_inference_time_seconds"},
    {"moed_request_prompt_tokens", "vllm:request_prompt_tokens"},
    {"moed_request_generation_tokens", "vllm:request_generation_tokens"},
    {"moed_step_tokens", "vllm:iteration_tokens_total"},
    {"moed_kv_cache_usage_ratio", "vllm:gpu_cache_usage_perc"},
    {"moed_inter_token_latency_seconds", "vllm:time_per_output_token_seconds"},
};

// vLLM counts requests by how they finished only, and has one word for all that did not.
ClientMetric RequestSuccess(const ClientMetric& from) {
  ClientMetric to = from;
  to.label.clear();
  for (const ClientMetric::Label& label : from.label) {
    if (label.name == "model_name") to.label.push_back(label);
    if (label.name != "finish_reason") continue;
    const bool is_success = label.value == "stop" || label.value == "length";
    to.label.push_back({"finished_reason", is_success ? label.value : "abort"});
  }
  return to;
}

// Metrics that have the same labels now become one.
void MergeCounters(std::vector<ClientMetric>& metrics) {
  std::vector<ClientMetric> merged;
  for (ClientMetric& metric : metrics) {
    bool is_known = false;
    for (ClientMetric& other : merged) {
      if (other.label != metric.label) continue;
      other.counter.value += metric.counter.value;
      is_known = true;
    }
    if (!is_known) merged.push_back(std::move(metric));
  }
  metrics = std::move(merged);
}

MetricFamily Alias(const MetricFamily& from, const char* name) {
  MetricFamily to = from;
  to.name = name;
  to.help = "As " + from.name + ", under vLLM's name.";
  if (from.name == "moed_requests_total") {
    for (ClientMetric& metric : to.metric) metric = RequestSuccess(metric);
    MergeCounters(to.metric);
  }
  // vLLM numbers the engines behind one address; there is one here.
  for (ClientMetric& metric : to.metric) metric.label.push_back({"engine", "0"});
  return to;
}

}  // namespace

std::vector<MetricFamily> VllmAliases(const std::vector<MetricFamily>& families) {
  std::vector<MetricFamily> aliases;
  for (const auto& alias : kAliases) {
    for (const MetricFamily& family : families) {
      if (family.name == alias.moed) aliases.push_back(Alias(family, alias.vllm));
    }
  }
  return aliases;
}

}  // namespace moed
