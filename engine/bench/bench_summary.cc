#include "engine/bench/bench_summary.h"

#include <algorithm>
#include <cmath>

namespace moed {
namespace {

std::vector<std::pair<std::string, double>> StageSeconds(const TestSample& s) {
  const StepTimes& t = s.times;
  const double named = s.plan_seconds + t.attention + t.route + t.dispatch + t.experts + t.combine +
                       t.head + t.sampling;
  return {{"plan", s.plan_seconds},
          {"projections", t.attention - t.attention_kv},
          {"attention", t.attention_kv},
          {"route", t.route},
          {"dispatch", t.dispatch},
          {"dispatch_wait", t.dispatch_wait},
          {"experts", t.experts},
          {"combine", t.combine},
          {"combine_wait", t.combine_wait},
          {"head", t.head},
          {"sampling", t.sampling},
          {"other", std::max(0.0, s.seconds - named)},
          {"total", s.seconds}};
}

}  // namespace

Spread SpreadOf(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  const double median =
      values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
  return {median, values.front(), values.back()};
}

Spread SpreadOver(const std::vector<TestSample>& samples,
                  const std::function<double(const TestSample&)>& value) {
  std::vector<double> values;
  for (const TestSample& sample : samples) values.push_back(value(sample));
  return SpreadOf(std::move(values));
}

double TokensPerSecond(const TestSample& sample) {
  return static_cast<double>(sample.load.num_tokens()) / sample.seconds;
}

std::vector<std::pair<std::string, double>> StageMs(const std::vector<TestSample>& samples) {
  std::vector<std::pair<std::string, double>> stages = StageSeconds(samples.front());
  for (size_t i = 0; i < stages.size(); ++i) {
    stages[i].second = SpreadOver(samples, [i](const TestSample& s) {
                         return 1e3 * StageSeconds(s)[i].second / s.num_steps;
                       }).median;
  }
  return stages;
}

std::vector<std::string> StageNames() {
  std::vector<std::string> names;
  for (const auto& [name, unused] : StageSeconds({})) names.push_back(name);
  return names;
}

double DistinctExperts(const std::vector<TestSample>& samples) {
  double sum = 0;
  for (const TestSample& sample : samples) sum += sample.distinct_experts;
  return sum / static_cast<double>(samples.size());
}

double UniformDistinctExperts(const ModelConfig& config, const TestSample& sample) {
  const double experts = static_cast<double>(config.num_experts);
  if (experts == 0) return 0;
  const double num_tokens = static_cast<double>(sample.load.num_tokens()) / sample.num_steps;
  return experts * (1 - std::pow(1 - static_cast<double>(config.top_k) / experts, num_tokens));
}

std::string Name(BenchTest test) {
  switch (test) {
    case BenchTest::kPrefill:
      return "prefill";
    case BenchTest::kGeneration:
      return "generation";
    case BenchTest::kMixed:
      return "mixed";
  }
  return "";
}

}  // namespace moed
