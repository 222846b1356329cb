#include "client/load/load_spec.h"

#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "config/base/status_macros.h"

namespace moed::load {
namespace {

constexpr double kDefaultSeconds = 30;
constexpr double kMaxTokens = 1 << 24;
constexpr double kMaxConcurrency = 1'000'000;

absl::Status OfFlag(const char* flag, const absl::Status& status) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(flag, ": ", status.message()));
}

template <typename T>
absl::StatusOr<T> OfFlag(const char* flag, absl::StatusOr<T> value) {
  if (value.ok()) return value;
  return OfFlag(flag, value.status());
}

absl::Status ReadTraceFile(const LoadFlags& flags, LoadSpec& spec) {
  std::ifstream in(flags.trace, std::ios::binary);
  if (!in) {
    return absl::NotFoundError(
        absl::StrCat("--trace: reading ", flags.trace, ": ", std::strerror(errno)));
  }
  MOED_ASSIGN_OR_RETURN(const TraceFormat format, flags.trace_format == "auto"
                                                      ? DetectTraceFormat(in, flags.trace)
                                                      : ParseTraceFormat(flags.trace_format));
  MOED_ASSIGN_OR_RETURN(spec.trace, ReadTrace(in, format, flags.trace));
  spec.kind = LoadSpec::Kind::kTrace;
  return absl::OkStatus();
}

absl::Status ReadLevels(const LoadFlags& flags, LoadSpec& spec) {
  if (!flags.trace.empty()) return ReadTraceFile(flags, spec);
  if (flags.rate.empty() || flags.rate == "inf") {
    // All at once is a closed loop with room for all.
    spec.kind = LoadSpec::Kind::kClosedLoop;
    std::string concurrency = flags.concurrency.empty() ? "1" : flags.concurrency;
    if (flags.rate == "inf") {
      const int64_t room = flags.max_concurrency > 0 ? flags.max_concurrency : flags.num_prompts;
      if (room == 0) {
        return absl::InvalidArgumentError("--rate: inf needs --num-prompts or --max-concurrency");
      }
      concurrency = absl::StrCat(room);
    }
    MOED_ASSIGN_OR_RETURN(spec.levels, OfFlag("--concurrency", RateSchedule::Parse(concurrency)));
    if (spec.levels.max_level() > kMaxConcurrency) {
      return absl::InvalidArgumentError(
          absl::StrCat("--concurrency: at most ", kMaxConcurrency, " expected"));
    }
    return absl::OkStatus();
  }
  spec.kind = LoadSpec::Kind::kOpenLoop;
  MOED_ASSIGN_OR_RETURN(spec.levels, OfFlag("--rate", RateSchedule::Parse(flags.rate)));
  return absl::OkStatus();
}

absl::Status ReadServiceLevel(const std::vector<std::string>& limits, ServiceLevel& slo) {
  for (const std::string& limit : limits) {
    const std::pair<std::string, std::string> parts =
        absl::StrSplit(limit, absl::MaxSplits(':', 1));
    double ms = 0;
    if (!absl::SimpleAtod(parts.second, &ms) || !(ms > 0)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--goodput: '", limit, "' is not like ttft:200 (milliseconds)"));
    }
    if (parts.first == "ttft") {
      slo.ttft_ms = ms;
    } else if (parts.first == "tpot") {
      slo.tpot_ms = ms;
    } else if (parts.first == "e2el") {
      slo.e2el_ms = ms;
    } else {
      return absl::InvalidArgumentError(
          absl::StrCat("--goodput: '", parts.first, "' is none of ttft, tpot, e2el"));
    }
  }
  return absl::OkStatus();
}

// What ends a run: what the user says, else the schedule or the trace, else half a minute.
void SetEnd(const LoadFlags& flags, LoadSpec& spec) {
  spec.num_prompts = flags.num_prompts;
  spec.duration_s = flags.duration_s;
  if (spec.kind == LoadSpec::Kind::kTrace || flags.duration_s > 0) return;
  if (std::isfinite(spec.levels.seconds())) {
    spec.duration_s = spec.levels.seconds();
  } else if (flags.num_prompts == 0) {
    spec.duration_s = kDefaultSeconds;
  }
}

std::unique_ptr<ArrivalSource> TraceArrivals(const RequestTrace& trace, double time_scale) {
  std::vector<double> seconds;
  for (const TraceRequest& request : trace.requests) {
    seconds.push_back(request.seconds * time_scale);
  }
  return std::make_unique<FixedArrivals>(std::move(seconds));
}

void PlanArrivals(const LoadFlags& flags, const LoadSpec& spec, const RateSchedule& levels,
                  RunPlan& plan) {
  switch (spec.kind) {
    case LoadSpec::Kind::kClosedLoop:
      plan.slots = levels;
      plan.arrivals = std::make_unique<FixedArrivals>(SlotStarts(levels, flags.ramp_up_s));
      break;
    case LoadSpec::Kind::kOpenLoop:
      plan.max_concurrency = flags.max_concurrency;
      plan.arrivals =
          std::make_unique<RateArrivals>(RateArrivals::Params{.schedule = levels,
                                                              .shape = spec.gaps,
                                                              .burstiness = flags.burstiness,
                                                              .seed = plan.seed});
      break;
    case LoadSpec::Kind::kTrace:
      plan.max_concurrency = flags.max_concurrency;
      plan.arrivals = TraceArrivals(spec.trace, flags.time_scale);
      break;
  }
}

}  // namespace

absl::StatusOr<LoadSpec> MakeLoadSpec(const LoadFlags& flags) {
  LoadSpec spec;
  MOED_RETURN_IF_ERROR(ReadLevels(flags, spec));
  spec.gaps = flags.arrivals == "constant" ? GapShape::kConstant
              : flags.arrivals == "gamma"  ? GapShape::kGamma
                                           : GapShape::kPoisson;
  spec.lengths.seed = flags.seed;
  MOED_ASSIGN_OR_RETURN(spec.lengths.input,
                        OfFlag("--input-len", Distribution::Parse(flags.input_len, 1, kMaxTokens)));
  MOED_ASSIGN_OR_RETURN(
      spec.lengths.output,
      OfFlag("--output-len", Distribution::Parse(flags.output_len, 1, kMaxTokens)));
  MOED_ASSIGN_OR_RETURN(spec.turns, OfFlag("--turns", Distribution::Parse(flags.turns, 1, 10000)));
  MOED_ASSIGN_OR_RETURN(spec.think_s,
                        OfFlag("--think-time", Distribution::Parse(flags.think_time, 0, 1e6)));
  MOED_RETURN_IF_ERROR(ReadServiceLevel(flags.goodput, spec.slo));
  spec.limits = {.lag_ms = flags.max_lag_ms, .cpu_share = flags.max_cpu};
  SetEnd(flags, spec);
  if (spec.duration_s > 0 && flags.warmup_s >= spec.duration_s) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--warmup: ", flags.warmup_s, " s leave nothing of a run of ", spec.duration_s, " s"));
  }
  return spec;
}

RunPlan MakeRunPlan(const LoadFlags& flags, const LoadSpec& spec, std::optional<double> level,
                    int run) {
  RunPlan plan;
  plan.seed = flags.seed + static_cast<uint64_t>(run) * 1000003;
  PlanArrivals(flags, spec, level.has_value() ? RateSchedule::Constant(*level) : spec.levels, plan);
  plan.turns = spec.turns;
  plan.think_s = spec.think_s;
  plan.max_requests = spec.num_prompts;
  plan.duration_s = spec.duration_s;
  plan.drain_timeout_s = flags.drain_timeout_s;
  plan.recording = {.warmup_ns = std::llround(flags.warmup_s * 1e9),
                    .keep_details = flags.save_detailed};
  return plan;
}

}  // namespace moed::load
