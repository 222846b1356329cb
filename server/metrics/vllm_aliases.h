#pragma once

#include <prometheus/metric_family.h>

#include <vector>

namespace moed {

/// The metrics among `families` that vLLM exports as well, once more under vLLM's names and labels,
/// so that dashboards, autoscalers and routers made for vLLM work unchanged. Pure.
std::vector<prometheus::MetricFamily> VllmAliases(
    const std::vector<prometheus::MetricFamily>& families);

}  // namespace moed
