#pragma once

#include <string>

#include "server/launch_plan.h"

namespace moed {

/// What `moed --check` prints: a table for people.
std::string DescribePlan(const LaunchPlan& plan);

/// The same as one JSON object.
std::string PlanJson(const LaunchPlan& plan);

}  // namespace moed
