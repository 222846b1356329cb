#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "config/model_config.h"
#include "engine/bench/bench_run.h"

/// What reports say of the samples of a test.
namespace moed {

struct Spread {
  double median = 0;
  double min = 0;
  double max = 0;
};

/// Of at least one value.
Spread SpreadOf(std::vector<double> values);
Spread SpreadOver(const std::vector<TestSample>& samples,
                  const std::function<double(const TestSample&)>& value);

/// All tokens, of prompts and decoded ones.
double TokensPerSecond(const TestSample& sample);

/// Name and milliseconds per step of every stage, medians over the samples. "projections" and
/// "attention" are StepTimes::attention in two parts; dispatch and combine contain their waits;
/// "other" is what no stage claims, "total" the wall clock.
std::vector<std::pair<std::string, double>> StageMs(const std::vector<TestSample>& samples);

/// The names alone.
std::vector<std::string> StageNames();

/// Mean over the samples.
double DistinctExperts(const std::vector<TestSample>& samples);

/// Distinct experts that uniform routing would choose for the tokens of one step:
/// E (1 - (1 - K / E)^n).
double UniformDistinctExperts(const ModelConfig& config, const TestSample& sample);

/// "prefill", "generation" or "mixed".
std::string Name(BenchTest test);

}  // namespace moed
