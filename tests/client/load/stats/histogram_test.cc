#include "client/load/stats/histogram.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "client/load/stats/random.h"

namespace moed::load {
namespace {

/// What numpy.percentile(values, percent) gives.
double ExactPercentile(std::vector<int64_t> values, double percent) {
  std::sort(values.begin(), values.end());
  const double rank = percent / 100 * static_cast<double>(values.size() - 1);
  const auto below = static_cast<size_t>(rank);
  const auto low = static_cast<double>(values[below]);
  if (below + 1 == values.size()) return low;
  return low + (rank - static_cast<double>(below)) * (static_cast<double>(values[below + 1]) - low);
}

/// Latencies over nine powers of ten.
std::vector<int64_t> SpreadValues(uint64_t seed, int count) {
  Random random(seed, 0);
  std::vector<int64_t> values;
  for (int i = 0; i < count; ++i) {
    values.push_back(static_cast<int64_t>(std::pow(10.0, 3 + 9 * random.Uniform())));
  }
  return values;
}

TEST(HistogramTest, GivesBackEveryValueWithinATenthOfAPercent) {
  for (const int64_t value : SpreadValues(1, 20000)) {
    Histogram histogram;
    histogram.Add(value / 2);
    histogram.Add(value);
    histogram.Add(value * 2);
    const double read = histogram.Percentile(50);
    ASSERT_NEAR(read, static_cast<double>(value), static_cast<double>(value) * 0.0005 + 0.5);
  }
}

TEST(HistogramTest, PercentilesAgreeWithNumpysWithinATenthOfAPercent) {
  const std::vector<int64_t> values = SpreadValues(2, 10001);
  Histogram histogram;
  for (const int64_t value : values) histogram.Add(value);
  for (const double percent : {0.0, 0.1, 1.0, 25.0, 50.0, 90.0, 95.0, 99.0, 99.9, 99.99, 100.0}) {
    const double exact = ExactPercentile(values, percent);
    EXPECT_NEAR(histogram.Percentile(percent), exact, exact * 0.001) << percent;
  }
}

TEST(HistogramTest, InterpolatesBetweenNeighboursAsNumpyDoes) {
  Histogram histogram;
  for (const int64_t value : {10, 20, 30, 40}) histogram.Add(value);
  EXPECT_DOUBLE_EQ(histogram.Percentile(50), 25);
  EXPECT_DOUBLE_EQ(histogram.Percentile(90), 37);
  EXPECT_DOUBLE_EQ(histogram.Percentile(100), 40);
}

TEST(HistogramTest, MeanAndDeviationAreExact) {
  Histogram histogram;
  for (const int64_t value : {1000000, 2000000, 6000000}) histogram.Add(value);
  EXPECT_DOUBLE_EQ(histogram.Mean(), 3000000);
  EXPECT_NEAR(histogram.StandardDeviation(), 2160246.899, 0.001);  // numpy.std
  EXPECT_EQ(histogram.min(), 1000000);
  EXPECT_EQ(histogram.max(), 6000000);
}

TEST(HistogramTest, MergedHistogramsEqualOneOfAllValues) {
  const std::vector<int64_t> values = SpreadValues(3, 5000);
  Histogram all, first, second;
  for (size_t i = 0; i < values.size(); ++i) {
    all.Add(values[i]);
    (i % 3 == 0 ? first : second).Add(values[i]);
  }
  first.Merge(second);
  first.Merge(Histogram());
  EXPECT_EQ(first.count(), all.count());
  EXPECT_EQ(first.min(), all.min());
  EXPECT_EQ(first.max(), all.max());
  EXPECT_NEAR(first.Mean(), all.Mean(), all.Mean() * 1e-12);
  for (const double percent : {1.0, 50.0, 99.0, 99.9}) {
    EXPECT_DOUBLE_EQ(first.Percentile(percent), all.Percentile(percent));
  }
}

TEST(HistogramTest, AnEmptyOneIsZeroThroughout) {
  const Histogram histogram;
  EXPECT_EQ(histogram.count(), 0);
  EXPECT_EQ(histogram.Mean(), 0);
  EXPECT_EQ(histogram.StandardDeviation(), 0);
  EXPECT_EQ(histogram.Percentile(99), 0);
  EXPECT_EQ(histogram.min(), 0);
}

TEST(HistogramTest, CountsRepeatedValuesAndTakesNegativeOnesAsZero) {
  Histogram histogram;
  histogram.Add(-5);
  histogram.Add(7, 99);
  EXPECT_EQ(histogram.count(), 100);
  EXPECT_EQ(histogram.min(), 0);
  EXPECT_DOUBLE_EQ(histogram.Percentile(50), 7);
  EXPECT_EQ(histogram.CountUpTo(6), 1);
  EXPECT_EQ(histogram.CountUpTo(7), 100);
}

TEST(HistogramTest, HoldsTheLargestInteger) {
  Histogram histogram;
  histogram.Add(INT64_MAX);
  histogram.Add(INT64_MAX);
  EXPECT_DOUBLE_EQ(histogram.Percentile(50), static_cast<double>(INT64_MAX));
}

TEST(HistogramTest, ACoarseOneStaysWithinItsOwnError) {
  for (const int64_t value : SpreadValues(4, 2000)) {
    Histogram histogram(Histogram::kCoarseBits);
    histogram.Add(value / 2);
    histogram.Add(value);
    histogram.Add(value * 2);
    ASSERT_NEAR(histogram.Percentile(50), static_cast<double>(value),
                static_cast<double>(value) * 0.004 + 0.5);
  }
}

}  // namespace
}  // namespace moed::load
