#include "client/load/describe_load.h"

#include <string>

namespace moed::load {
namespace {

using nlohmann::ordered_json;

std::string KindName(LoadSpec::Kind kind) {
  switch (kind) {
    case LoadSpec::Kind::kClosedLoop:
      return "closed loop";
    case LoadSpec::Kind::kOpenLoop:
      return "open loop";
    case LoadSpec::Kind::kTrace:
      return "trace";
  }
  return "";
}

}  // namespace

ordered_json DescribeLoad(const LoadFlags& flags, const LoadSpec& spec) {
  ordered_json out = {{"kind", KindName(spec.kind)}};
  if (!flags.rate.empty()) out["rate"] = flags.rate;
  if (spec.kind == LoadSpec::Kind::kClosedLoop) out["concurrency"] = flags.concurrency;
  if (spec.kind == LoadSpec::Kind::kOpenLoop) {
    out["arrivals"] = flags.arrivals;
    if (flags.arrivals == "gamma") out["burstiness"] = flags.burstiness;
  }
  if (spec.kind == LoadSpec::Kind::kTrace) {
    out["trace"] = flags.trace;
    out["time_scale"] = flags.time_scale;
    out["trace_requests"] = spec.trace.requests.size();
    out["trace_skipped"] = spec.trace.num_skipped;
  }
  if (flags.max_concurrency > 0) out["max_concurrency"] = flags.max_concurrency;
  out["dataset"] = flags.dataset;
  out["input_len"] = flags.input_len;
  out["output_len"] = flags.output_len;
  if (flags.prefix_families > 0) {
    out["prefix_families"] = flags.prefix_families;
    out["prefix_len"] = flags.prefix_len;
    out["prefix_skew"] = flags.prefix_skew;
  }
  if (flags.expert_balancedness > 0) {
    out["expert_balancedness"] = flags.expert_balancedness;
    out["expert_drift_s"] = flags.expert_drift_s;
  }
  if (flags.turns != "1") out["turns"] = flags.turns;
  if (flags.think_time != "0") out["think_time"] = flags.think_time;
  if (flags.connection.timeout_s > 0) out["deadline_s"] = flags.connection.timeout_s;
  if (flags.cancel_after > 0) out["cancel_after"] = flags.cancel_after;
  if (flags.slow_reader_ms > 0) out["slow_reader_ms"] = flags.slow_reader_ms;
  if (flags.temperature > 0) out["temperature"] = flags.temperature;
  return out;
}

}  // namespace moed::load
