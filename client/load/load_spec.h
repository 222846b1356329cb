#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "client/load/load_flags.h"
#include "client/load/report/run_summary.h"
#include "client/load/schedule/arrivals.h"
#include "client/load/schedule/distribution.h"
#include "client/load/schedule/rate_schedule.h"
#include "client/load/schedule/request_trace.h"
#include "client/load/stream/load_run.h"

namespace moed::load {

/// The flags in values, before anything is connected.
struct LoadSpec {
  enum class Kind : uint8_t { kClosedLoop, kOpenLoop, kTrace };

  Kind kind = Kind::kClosedLoop;
  RateSchedule levels = RateSchedule::Constant(1);  // of a closed loop or an open one
  RequestTrace trace;
  GapShape gaps = GapShape::kPoisson;
  LengthParams lengths;
  Distribution turns = Distribution::Always(1);
  Distribution think_s = Distribution::Always(0);
  double duration_s = 0;
  int64_t num_prompts = 0;
  ServiceLevel slo;
  ClientLimits limits;
};

/// Parses and reads what the flags name. INVALID_ARGUMENT names the flag at fault.
absl::StatusOr<LoadSpec> MakeLoadSpec(const LoadFlags& flags);

/// The plan of one run; `level` replaces the schedule, for searches. `run` numbers the runs of a
/// command, which have different arrivals.
RunPlan MakeRunPlan(const LoadFlags& flags, const LoadSpec& spec, std::optional<double> level,
                    int run);

}  // namespace moed::load
