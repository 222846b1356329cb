#include "engine/bench/bench_report.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"

namespace moed {
namespace {

constexpr char kTransport[] = "ranks are threads of one process over shared memory";

struct Spread {
  double median = 0;
  double min = 0;
  double max = 0;
};

Spread SpreadOf(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  const double median =
      values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
  return {median, values.front(), values.back()};
}

Spread SpreadOver(const std::vector<PhaseSample>& samples,
                  const std::function<double(const PhaseSample&)>& value) {
  std::vector<double> values;
  for (const PhaseSample& sample : samples) values.push_back(value(sample));
  return SpreadOf(std::move(values));
}

Spread TokensPerSecond(const std::vector<PhaseSample>& samples) {
  return SpreadOver(
      samples, [](const PhaseSample& s) { return static_cast<double>(s.num_tokens) / s.seconds; });
}

/// Name and seconds of every stage of a phase; "other" is what is left of the wall clock.
std::vector<std::pair<std::string, double>> StagesOf(const PhaseSample& s) {
  const double named = s.plan_seconds + s.times.attention + s.times.route + s.times.dispatch +
                       s.times.experts + s.times.combine + s.times.head + s.times.sampling;
  return {{"plan", s.plan_seconds},
          {"attention", s.times.attention},
          {"route", s.times.route},
          {"dispatch", s.times.dispatch},
          {"dispatch_wait", s.times.dispatch_wait},
          {"experts", s.times.experts},
          {"combine", s.times.combine},
          {"combine_wait", s.times.combine_wait},
          {"head", s.times.head},
          {"sampling", s.times.sampling},
          {"other", std::max(0.0, s.seconds - named)},
          {"total", s.seconds}};
}

/// Median milliseconds per step of every stage.
std::vector<std::pair<std::string, double>> StageMs(const std::vector<PhaseSample>& samples) {
  std::vector<std::pair<std::string, double>> stages = StagesOf(samples.front());
  for (size_t i = 0; i < stages.size(); ++i) {
    stages[i].second = SpreadOver(samples, [i](const PhaseSample& s) {
                         return 1e3 * StagesOf(s)[i].second / s.num_steps;
                       }).median;
  }
  return stages;
}

/// Distinct experts that uniform routing would choose with `num_tokens` tokens: E (1 - (1 - K /
/// E)^n).
double UniformDistinctExperts(const ModelConfig& config, double num_tokens) {
  const double experts = static_cast<double>(config.num_experts);
  if (experts == 0) return 0;
  return experts * (1 - std::pow(1 - static_cast<double>(config.top_k) / experts, num_tokens));
}

double TokensPerStep(const PhaseSample& sample) {
  return static_cast<double>(sample.num_tokens) / sample.num_steps;
}

/// The phases of a batch that were measured, with their names.
std::vector<std::pair<std::string, const std::vector<PhaseSample>*>> Phases(
    const BatchSamples& batch) {
  std::vector<std::pair<std::string, const std::vector<PhaseSample>*>> phases;
  if (batch.prompt.front().num_steps > 0) phases.emplace_back("prompt", &batch.prompt);
  if (batch.generation.front().num_steps > 0) phases.emplace_back("generation", &batch.generation);
  return phases;
}

std::string FormatHeader(const BenchReport& report) {
  const EngineInfo& engine = report.engines.front();
  int64_t weight_bytes = 0;
  for (const EngineInfo& info : report.engines) weight_bytes += info.weight_bytes;
  return absl::StrFormat(
      "%s, %d layers, hidden %d, %d experts, top-%d, %s, %s (%s), %d ranks x %d threads%s\n"
      "weights %.1f MiB over all ranks, loaded in %.2f s; prompt %d and generation %d tokens per "
      "sequence, %d repetitions\n\n",
      report.config.architecture, report.config.num_layers, report.config.hidden_size,
      report.config.num_experts, report.config.top_k, report.options.dtype, engine.device,
      engine.instruction_set, engine.num_ranks, engine.num_threads,
      engine.num_ranks > 1 ? absl::StrFormat(" (%s)", kTransport) : "",
      static_cast<double>(weight_bytes) / (1 << 20), report.load_seconds,
      report.options.num_prompt_tokens, report.options.num_generated_tokens,
      report.options.num_repetitions);
}

std::string FormatSpeedTable(const BenchReport& report) {
  std::string out =
      absl::StrFormat("%6s %-11s %10s %10s %10s %10s %16s %9s\n", "batch", "phase", "tokens/s",
                      "min", "max", "ms/step", "experts/layer", "balanced");
  for (const BatchSamples& batch : report.batches) {
    for (const auto& [name, samples] : Phases(batch)) {
      const Spread speed = TokensPerSecond(*samples);
      const PhaseSample& first = samples->front();
      out += absl::StrFormat("%6d %-11s %10.1f %10.1f %10.1f %10.3f %7.1f of %5.1f %9.3f\n",
                             batch.batch, name, speed.median, speed.min, speed.max,
                             StageMs(*samples).back().second, first.distinct_experts,
                             UniformDistinctExperts(report.config, TokensPerStep(first)),
                             first.balancedness);
    }
  }
  return out +
         "experts/layer: distinct experts per layer and step, of what uniform routing gives\n";
}

std::string FormatStageTable(const BenchReport& report) {
  std::string out = "\nmilliseconds per step (mean over ranks, median over repetitions)\n";
  out += absl::StrFormat("%6s %-11s", "batch", "phase");
  for (const auto& [stage, unused] : StagesOf({})) {
    out += absl::StrFormat(" %*s", std::max<int>(8, static_cast<int>(stage.size())), stage);
  }
  for (const BatchSamples& batch : report.batches) {
    for (const auto& [name, samples] : Phases(batch)) {
      out += absl::StrFormat("\n%6d %-11s", batch.batch, name);
      for (const auto& [stage, ms] : StageMs(*samples)) {
        out += absl::StrFormat(" %*.3f", std::max<int>(8, static_cast<int>(stage.size())), ms);
      }
    }
  }
  return out + "\n";
}

nlohmann::json ToJson(const Spread& spread) {
  return {{"median", spread.median}, {"min", spread.min}, {"max", spread.max}};
}

nlohmann::json PhaseJson(const std::vector<PhaseSample>& samples, const ModelConfig& config) {
  const PhaseSample& first = samples.front();
  nlohmann::json stages = nlohmann::json::object();
  for (const auto& [stage, ms] : StageMs(samples)) stages[stage] = ms;
  return {
      {"tokens", first.num_tokens},
      {"steps", first.num_steps},
      {"tokens_per_second", ToJson(TokensPerSecond(samples))},
      {"stage_ms_per_step", stages},
      {"distinct_experts_per_layer", first.distinct_experts},
      {"uniform_distinct_experts_per_layer", UniformDistinctExperts(config, TokensPerStep(first))},
      {"balancedness", first.balancedness}};
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

std::string FormatTables(const BenchReport& report) {
  return FormatHeader(report) + FormatSpeedTable(report) + FormatStageTable(report);
}

std::string FormatJson(const BenchReport& report) {
  nlohmann::json out = {{"model", ModelJson(report.config)},
                        {"dtype", report.options.dtype},
                        {"load_format", report.options.load_format},
                        {"num_ranks", report.options.num_ranks},
                        {"transport", kTransport},
                        {"num_prompt_tokens", report.options.num_prompt_tokens},
                        {"num_generated_tokens", report.options.num_generated_tokens},
                        {"num_repetitions", report.options.num_repetitions},
                        {"seed", report.options.seed},
                        {"load_seconds", report.load_seconds}};
  for (const EngineInfo& info : report.engines) out["engines"].push_back(EngineJson(info));
  out["results"] = nlohmann::json::array();
  for (const BatchSamples& batch : report.batches) {
    nlohmann::json entry = {{"batch", batch.batch}};
    for (const auto& [name, samples] : Phases(batch)) {
      entry[name] = PhaseJson(*samples, report.config);
    }
    out["results"].push_back(entry);
  }
  return out.dump(2) + "\n";
}

}  // namespace moed
