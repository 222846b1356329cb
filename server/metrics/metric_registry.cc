#include "server/metrics/metric_registry.h"

#include <algorithm>

namespace moed {

MetricBuckets RequestSecondsBuckets() {
  return {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
          1,     2.5,    5,     10,   20,    40,   80,  160,  640};
}

MetricBuckets StepSecondsBuckets() {
  return {0.00001, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.03,
          0.05,    0.075,  0.1,     0.2,    0.3,   0.5,    0.75,  1,    2.5,  10};
}

MetricBuckets TokenCountBuckets() {
  return {1,   2,    4,    8,    16,   32,    64,    128,   256,
          512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072};
}

prometheus::Family<prometheus::Counter>& MetricRegistry::Counters(const std::string& name,
                                                                  const std::string& help) {
  return prometheus::BuildCounter().Name(name).Help(help).Labels(labels_).Register(registry_);
}

prometheus::Family<prometheus::Gauge>& MetricRegistry::Gauges(const std::string& name,
                                                              const std::string& help) {
  return prometheus::BuildGauge().Name(name).Help(help).Labels(labels_).Register(registry_);
}

prometheus::Family<prometheus::Histogram>& MetricRegistry::Histograms(const std::string& name,
                                                                      const std::string& help) {
  return prometheus::BuildHistogram().Name(name).Help(help).Labels(labels_).Register(registry_);
}

void BatchHistogram::Observe(std::span<const double> values) {
  // A batch costs an addition for every bucket, a single value one.
  if (values.size() * 4 < bounds_.size()) {
    for (const double value : values) histogram_.Observe(value);
    return;
  }
  std::ranges::fill(counts_, 0);
  double sum = 0;
  for (const double value : values) {
    ++counts_[std::ranges::lower_bound(bounds_, value) - bounds_.begin()];
    sum += value;
  }
  histogram_.ObserveMultiple(counts_, sum);
}

void RaiseTo(prometheus::Counter& counter, double total) {
  const double delta = total - counter.Value();
  if (delta > 0) counter.Increment(delta);
}

}  // namespace moed
