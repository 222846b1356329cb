#pragma once

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <span>
#include <string>
#include <vector>

namespace moed {

using MetricLabels = prometheus::Labels;
using MetricBuckets = prometheus::Histogram::BucketBoundaries;

/// The phase of a step: "prefill" when all its tokens are prompt tokens, "decode" when none is.
inline constexpr const char* kStepPhases[] = {"prefill", "decode", "mixed"};
inline constexpr size_t kNumStepPhases = std::size(kStepPhases);

MetricBuckets RequestSecondsBuckets();
MetricBuckets StepSecondsBuckets();
MetricBuckets TokenCountBuckets();

/// A prometheus-cpp registry, and short ways to add to it. Families of the same name are one.
///
/// Owned by PrometheusMetrics; any thread.
class MetricRegistry {
 public:
  /// `model_name` becomes a label of everything.
  explicit MetricRegistry(const std::string& model_name) : labels_({{"model_name", model_name}}) {}

  prometheus::Family<prometheus::Counter>& Counters(const std::string& name,
                                                    const std::string& help);
  prometheus::Family<prometheus::Gauge>& Gauges(const std::string& name, const std::string& help);
  prometheus::Family<prometheus::Histogram>& Histograms(const std::string& name,
                                                        const std::string& help);
  prometheus::Counter& OneCounter(const std::string& name, const std::string& help) {
    return Counters(name, help).Add({});
  }
  prometheus::Gauge& OneGauge(const std::string& name, const std::string& help) {
    return Gauges(name, help).Add({});
  }
  prometheus::Histogram& OneHistogram(const std::string& name, const std::string& help,
                                      const MetricBuckets& buckets) {
    return Histograms(name, help).Add({}, buckets);
  }

  std::vector<prometheus::MetricFamily> Collect() const { return registry_.Collect(); }

 private:
  const MetricLabels labels_;
  prometheus::Registry registry_;
};

/// A histogram that takes many values at the price of one: it sorts them into buckets itself.
///
/// Owned by who observes; one thread.
class BatchHistogram {
 public:
  BatchHistogram(prometheus::Histogram& histogram, MetricBuckets bounds)
      : histogram_(histogram), bounds_(std::move(bounds)), counts_(bounds_.size() + 1) {}

  void Observe(std::span<const double> values);

 private:
  prometheus::Histogram& histogram_;
  const MetricBuckets bounds_;
  std::vector<double> counts_;  // of one batch
};

/// Brings a counter to a total that somebody else counts; never down. One caller at a time.
void RaiseTo(prometheus::Counter& counter, double total);

}  // namespace moed
