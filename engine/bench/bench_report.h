#pragma once

#include <string>
#include <vector>

#include "config/model_config.h"
#include "engine/api/engine.h"
#include "engine/bench/bench_options.h"
#include "engine/bench/bench_run.h"

namespace moed {

/// Everything a report says.
struct BenchReport {
  BenchOptions options;
  ModelConfig config;
  std::vector<EngineInfo> engines;  // [num_ranks]
  double load_seconds = 0;
  std::vector<BatchSamples> batches;
};

/// Tables for people: tokens per second (median and spread over the repetitions), then milliseconds
/// per step and stage.
std::string FormatTables(const BenchReport& report);

/// One JSON object with the same numbers.
std::string FormatJson(const BenchReport& report);

}  // namespace moed
