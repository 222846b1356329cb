#include <utility>

#include "engine/bench/bench_report.h"
#include "engine/bench/bench_summary.h"
#include "nlohmann/json.hpp"

namespace moed {
namespace {

nlohmann::json RateJson(const StageRate& rate, bool has_ceilings) {
  nlohmann::json stage = {{"stage", rate.work.stage},
                          {"ms_per_step", rate.ms},
                          {"bytes_read_per_step", rate.work.bytes},
                          {"operations_per_step", rate.work.operations},
                          {"read_bytes_per_second", rate.bytes_per_s()},
                          {"operations_per_second", rate.operations_per_s()}};
  if (has_ceilings) {
    stage["share_of_read_ceiling"] = rate.read_share;
    stage["share_of_arithmetic_ceiling"] = rate.arithmetic_share;
    stage["share_of_bound"] = rate.bound_share;
  }
  return stage;
}

nlohmann::json CeilingsJson(const MachineCeilings& ceilings) {
  return {{"num_threads", ceilings.num_threads},
          {"read_bytes_per_second", ceilings.read_bytes_per_s},
          {"read_method", ceilings.read_method},
          {"copy_bytes_per_second", ceilings.copy_bytes_per_s},
          {"f32_operations_per_second", ceilings.f32_ops_per_s},
          {"bf16_operations_per_second", ceilings.bf16_ops_per_s},
          {"int8_operations_per_second", ceilings.int8_ops_per_s}};
}

nlohmann::json TestJson(const TestSamples& test, const BenchReport& report) {
  const TestSample& first = test.samples.front();
  const Spread speed = SpreadOver(test.samples, TokensPerSecond);
  nlohmann::json row = {{"test", Name(test.test)},
                        {"batch", test.batch},
                        {"prompt", report.options.num_prompt_tokens},
                        {"shared_prompt", report.options.shared_prompt},
                        {"tokens", first.load.num_tokens()},
                        {"steps", first.num_steps},
                        {"tokens_per_second", speed.median},
                        {"min_tokens_per_second", speed.min},
                        {"max_tokens_per_second", speed.max},
                        {"distinct_experts", DistinctExperts(test.samples)},
                        {"uniform_distinct_experts", UniformDistinctExperts(report.config, first)},
                        {"balancedness", first.balancedness}};
  for (const TestSample& s : test.samples) row["samples"].push_back(TokensPerSecond(s));
  if (first.read_bytes_per_s > 0) {
    for (const TestSample& s : test.samples) {
      row["machine_read_bytes_per_second"].push_back(s.read_bytes_per_s);
    }
  }
  for (const auto& [stage, ms] : StageMs(test.samples)) row["stage_ms_per_step"][stage] = ms;
  for (const StageRate& rate : RatesOf(report.work_model(), test.samples, report.ceilings)) {
    row["stages"].push_back(RateJson(rate, report.ceilings.num_threads > 0));
  }
  if (test.test == BenchTest::kMixed) {
    const double num_tokens = static_cast<double>(first.load.num_tokens());
    const double share = static_cast<double>(first.load.num_prompt_tokens) / num_tokens;
    row["prompt_tokens_per_second"] = share * speed.median;
    row["decoded_tokens_per_second"] = (1 - share) * speed.median;
  }
  return row;
}

nlohmann::json ModelJson(const ModelConfig& config) {
  return {{"architecture", config.architecture}, {"num_layers", config.num_layers},
          {"hidden_size", config.hidden_size},   {"num_heads", config.num_heads},
          {"num_kv_heads", config.num_kv_heads}, {"head_dim", config.head_dim},
          {"num_experts", config.num_experts},   {"top_k", config.top_k},
          {"vocab_size", config.vocab_size},     {"expert_size", config.moe_intermediate_size}};
}

nlohmann::json EngineJson(const EngineInfo& info) {
  return {{"rank", info.rank},
          {"device", info.device},
          {"instruction_set", info.instruction_set},
          {"num_threads", info.num_threads},
          {"weight_bytes", info.weight_bytes},
          {"kv_bytes", info.kv_bytes},
          {"exchange_bytes", info.exchange_bytes},
          {"workspace_bytes", info.workspace_bytes}};
}

}  // namespace

std::string FormatJson(const BenchReport& report) {
  const BenchOptions& options = report.options;
  nlohmann::json out = {{"model", ModelJson(report.config)},
                        {"dtype", options.dtype},
                        {"load_format", options.load_format},
                        {"num_ranks", options.num_ranks},
                        {"num_threads", options.num_threads},
                        {"pinned", report.pinned},
                        {"num_prompt_tokens", options.num_prompt_tokens},
                        {"num_generated_tokens", options.num_generated_tokens},
                        {"num_mixed_tokens", options.num_mixed_tokens},
                        {"shared_prompt", options.shared_prompt},
                        {"num_repetitions", options.num_repetitions},
                        {"seed", options.seed},
                        {"load_seconds", report.load_seconds}};
  if (report.ceilings.num_threads > 0) out["ceilings"] = CeilingsJson(report.ceilings);
  for (const EngineInfo& info : report.engines) out["engines"].push_back(EngineJson(info));
  out["results"] = nlohmann::json::array();
  for (const TestSamples& test : report.tests) out["results"].push_back(TestJson(test, report));
  return out.dump(2) + "\n";
}

}  // namespace moed
