#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace moed::load {

/// The sum of all samples of one name in Prometheus' text format, whatever their labels; 0 without.
double SumOfMetric(absl::string_view text, absl::string_view name);

/// The body of http://ADDRESS/metrics; ADDRESS is HOST:PORT. UNAVAILABLE when there is no 200.
absl::StatusOr<std::string> FetchMetrics(const std::string& address);

}  // namespace moed::load
