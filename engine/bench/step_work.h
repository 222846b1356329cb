#pragma once

#include <string>
#include <vector>

#include "config/base/dtype.h"
#include "config/model_config.h"
#include "engine/bench/bench_run.h"
#include "engine/bench/machine_ceilings.h"
#include "engine/runtime/parse_dtype.h"

namespace moed {

/// What a stage multiplies.
enum class Arithmetic : uint8_t { kF32, kBf16, kInt8 };

/// What a stage has to read from memory and to compute.
struct StageWork {
  std::string stage;  // as in StageMs
  double bytes = 0;
  double operations = 0;  // a multiplication and an addition are two
  Arithmetic arithmetic = Arithmetic::kBf16;
};

/// How a model is kept.
struct WorkModel {
  const ModelConfig& config;
  EngineDType dtype;
  DType stored_dtype = DType::kBF16;  // of matrices that are kept as stored
};

/// The mean step of `sample`: projections, attention, route, experts, head, summed over the ranks.
/// Counted are the weights that any token needs, once for each rank that has them (of experts: as
/// many as were seen to be chosen), and K and V of the positions that any token sees, a shared one
/// once; not activations, which stay in caches. Norms, biases and the embedding's rows are left
/// out.
std::vector<StageWork> WorkOfStep(const WorkModel& model, const TestSample& sample);

/// A stage beside what the machine can do.
struct StageRate {
  StageWork work;
  double ms = 0;
  // Of the measured time, the part that the machine would need at its best; 0 without ceilings.
  double read_share = 0;        // for reading alone
  double arithmetic_share = 0;  // for arithmetic alone
  double bound_share = 0;       // for the longer of the two, stage by stage

  double bytes_per_s() const { return ms > 0 ? 1e3 * work.bytes / ms : 0; }
  double operations_per_s() const { return ms > 0 ? 1e3 * work.operations / ms : 0; }
};

/// The stages of a test and, last, "total": the whole step. Times are medians over the samples, and
/// so is the streaming read, where the samples have it.
/// Where the CPU has no instruction for a type, the next wider one that it has counts.
std::vector<StageRate> RatesOf(const WorkModel& model, const std::vector<TestSample>& samples,
                               const MachineCeilings& ceilings);

}  // namespace moed
