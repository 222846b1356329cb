#pragma once

#include <string>
#include <vector>

#include "config/model_config.h"
#include "engine/api/engine.h"
#include "engine/bench/bench_options.h"
#include "engine/bench/bench_run.h"
#include "engine/bench/machine_ceilings.h"
#include "engine/bench/step_work.h"

namespace moed {

/// Everything a report says.
struct BenchReport {
  BenchOptions options;
  ModelConfig config;
  bool pinned = false;                // threads to CPUs
  std::vector<EngineInfo> engines;    // [num_ranks]
  EngineDType dtype;                  // of options.dtype
  DType stored_dtype = DType::kBF16;  // of matrices that are kept as stored
  MachineCeilings ceilings;           // before the tests; num_threads is 0 with --no-ceilings
  double load_seconds = 0;
  std::vector<TestSamples> tests;

  WorkModel work_model() const {
    return {.config = config, .dtype = dtype, .stored_dtype = stored_dtype};
  }
};

/// Tables for people: tokens per second (median and spread over the repetitions), milliseconds per
/// step and stage, and what that is of the machine's ceilings.
std::string FormatTables(const BenchReport& report);

/// One JSON object with the same numbers; README.md describes it.
std::string FormatJson(const BenchReport& report);

}  // namespace moed
