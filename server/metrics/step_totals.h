#pragma once

#include <cstdint>

#include "engine/api/step.h"

namespace moed {

/// A part of a step's time and its name in metrics.
struct StepStage {
  const char* name;
  double StepTimes::*seconds;
};

/// The parts that follow one another and so add up to StepTimes::total, but for what lies between.
inline constexpr StepStage kStepStages[] = {
    {"attention", &StepTimes::attention}, {"route", &StepTimes::route},
    {"dispatch", &StepTimes::dispatch},   {"experts", &StepTimes::experts},
    {"combine", &StepTimes::combine},     {"head", &StepTimes::head},
    {"sampling", &StepTimes::sampling}};

/// sum += sign * times, part by part.
inline void AddTimes(const StepTimes& times, StepTimes& sum, double sign = 1) {
  for (const StepStage& stage : kStepStages) sum.*stage.seconds += sign * (times.*stage.seconds);
  sum.attention_kv += sign * times.attention_kv;
  sum.dispatch_wait += sign * times.dispatch_wait;
  sum.combine_wait += sign * times.combine_wait;
  sum.total += sign * times.total;
}

/// Sums over steps. A value that only grows: what happened between two moments is a difference.
struct StepTotals {
  int64_t num_steps = 0;
  double plan_seconds = 0;
  double step_seconds = 0;  // as the step loop saw them: the engines and the way to them
  StepTimes times;          // of the rank that took longest in each step
};

inline StepTotals operator-(const StepTotals& later, const StepTotals& earlier) {
  StepTotals difference = later;
  difference.num_steps -= earlier.num_steps;
  difference.plan_seconds -= earlier.plan_seconds;
  difference.step_seconds -= earlier.step_seconds;
  AddTimes(earlier.times, difference.times, -1);
  return difference;
}

}  // namespace moed
