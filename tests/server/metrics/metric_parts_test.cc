// The parts of the metrics that compute something: batches, imbalance, the window of expert load,
// the JSON of the status page.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "server/metrics/expert_window.h"
#include "server/metrics/experts_json.h"
#include "server/metrics/imbalance.h"
#include "server/metrics/metric_registry.h"

namespace moed {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

using Tokens = std::vector<int64_t>;

TEST(BatchHistogramTest, ABatchIsCountedAsIfObservedOneByOne) {
  const MetricBuckets bounds = {1, 2, 4};
  prometheus::Histogram one_by_one(bounds), at_once(bounds);
  const std::vector<double> values = {0.5, 1, 1.5, 2, 3, 4, 4.5, 1e9, -1};
  for (const double value : values) one_by_one.Observe(value);
  BatchHistogram batch(at_once, bounds);
  batch.Observe(values);
  batch.Observe({});
  const auto expected = one_by_one.Collect().histogram;
  const auto actual = at_once.Collect().histogram;
  EXPECT_EQ(actual.sample_count, expected.sample_count);
  EXPECT_DOUBLE_EQ(actual.sample_sum, expected.sample_sum);
  for (size_t i = 0; i < expected.bucket.size(); ++i) {
    EXPECT_EQ(actual.bucket[i].cumulative_count, expected.bucket[i].cumulative_count) << i;
  }
}

TEST(RaiseToTest, ACounterNeverGoesDown) {
  prometheus::Counter counter;
  RaiseTo(counter, 5);
  RaiseTo(counter, 3);
  EXPECT_EQ(counter.Value(), 5);
}

TEST(ImbalanceMeterTest, EvenLoadIsOneAndAllOnOneIsTheirNumber) {
  ImbalanceMeter meter(ExpertPlacement::Linear(2, 4, 2));
  meter.Measure(Tokens{5, 5, 5, 5, /*layer 1*/ 0, 0, 0, 8});
  EXPECT_THAT(meter.of_ranks(), ElementsAre(1, 2));
  EXPECT_THAT(meter.of_experts(), ElementsAre(1, 4));
}

TEST(ImbalanceMeterTest, LayersWithoutRowsAreLeftOut) {
  ImbalanceMeter meter(ExpertPlacement::Linear(2, 4, 2));
  meter.Measure(Tokens{0, 0, 0, 0, /*layer 1*/ 1, 0, 1, 0});
  EXPECT_THAT(meter.of_ranks(), ElementsAre(1));
}

TEST(ImbalanceMeterTest, CountsOfAnotherShapeAreNotMeasured) {
  ImbalanceMeter meter(ExpertPlacement::Linear(1, 4, 2));
  meter.Measure(Tokens{1, 2, 3});
  EXPECT_THAT(meter.of_ranks(), IsEmpty());
  EXPECT_THAT(meter.of_experts(), IsEmpty());
}

TEST(ImbalanceMeterTest, AReplicatedExpertsRowsAreSpreadOverItsCopies) {
  ExpertPlacement placement{.num_ranks = 2, .num_experts = 2};
  placement.layers.push_back({.slot_to_expert = {0, 0, 1}, .rank_slot_begin = {0, 1, 3}});
  ImbalanceMeter meter(placement);
  meter.Measure(Tokens{8, 2});  // 4 rows on rank 0, 4 + 2 on rank 1
  EXPECT_THAT(meter.of_ranks(), ElementsAre(6 * 2 / 10.0));
}

TEST(ExpertWindowTest, UntilAWindowIsFullAllThatWasSeenCounts) {
  const absl::Time start = absl::UnixEpoch();
  ExpertWindow window(absl::Seconds(10));
  EXPECT_THAT(window.Look(Tokens{4, 0}, start), ElementsAre(4, 0));
  EXPECT_THAT(window.Look(Tokens{6, 1}, start + absl::Seconds(9)), ElementsAre(6, 1));
}

TEST(ExpertWindowTest, AFullWindowHoldsUntilTheNextOneIs) {
  const absl::Time start = absl::UnixEpoch();
  ExpertWindow window(absl::Seconds(10));
  window.Look(Tokens{4, 0}, start);
  EXPECT_THAT(window.Look(Tokens{6, 1}, start + absl::Seconds(10)), ElementsAre(6, 1));
  EXPECT_THAT(window.Look(Tokens{9, 9}, start + absl::Seconds(15)), ElementsAre(6, 1));
  EXPECT_THAT(window.Look(Tokens{9, 11}, start + absl::Seconds(20)), ElementsAre(3, 10));
}

TEST(ExpertWindowTest, TotalsThatStartAnewStartTheWindowAnew) {
  const absl::Time start = absl::UnixEpoch();
  ExpertWindow window(absl::Seconds(10));
  window.Look(Tokens{4, 4}, start);
  window.Look(Tokens{100, 50}, start + absl::Seconds(10));
  EXPECT_THAT(window.Look(Tokens{1, 2}, start + absl::Seconds(12)), ElementsAre(1, 2));
  EXPECT_THAT(window.Look(Tokens{5, 3}, start + absl::Seconds(20)), ElementsAre(5, 3));
}

TEST(ExpertsJsonTest, EveryLayerHasItsTokensAndItsSlots) {
  ServerStats stats;
  stats.tokens_per_expert = {7, 8, 9, 10};
  EXPECT_EQ(ExpertsJson(stats, ExpertPlacement::RoundRobin(2, 2, 2), std::vector<int32_t>{1, 5}),
            R"({"num_experts":2,"layers":[{"layer":1,"tokens":[7,8],"slots":[[0,0],[1,1]]},)"
            R"({"layer":5,"tokens":[9,10],"slots":[[0,0],[1,1]]}]})"
            "\n");
}

TEST(ExpertsJsonTest, BeforeTheFirstStepNothingIsCounted) {
  EXPECT_EQ(ExpertsJson({}, ExpertPlacement::Linear(1, 2, 1), std::vector<int32_t>{0}),
            R"({"num_experts":2,"layers":[{"layer":0,"tokens":[0,0],"slots":[[0,0],[1,0]]}]})"
            "\n");
}

}  // namespace
}  // namespace moed
