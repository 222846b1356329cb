#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "client/load/schedule/arrivals.h"
#include "client/load/schedule/distribution.h"
#include "client/load/schedule/rate_schedule.h"

namespace moed::load {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

RateSchedule Schedule(const char* text) { return RateSchedule::Parse(text).value(); }

std::vector<double> AllArrivals(RateArrivals::Params params, size_t most = 1000000) {
  RateArrivals arrivals(std::move(params));
  std::vector<double> times;
  for (auto t = arrivals.Next(); t.has_value() && times.size() < most; t = arrivals.Next()) {
    times.push_back(*t);
  }
  return times;
}

/// Of the gaps: standard deviation / mean.
double Variation(const std::vector<double>& times) {
  double sum = 0, squares = 0;
  for (size_t i = 1; i < times.size(); ++i) {
    const double gap = times[i] - times[i - 1];
    sum += gap;
    squares += gap * gap;
  }
  const double n = static_cast<double>(times.size() - 1);
  return std::sqrt(squares / n - sum / n * sum / n) / (sum / n);
}

TEST(RateScheduleTest, AnswersForStepsAndRamps) {
  const RateSchedule schedule = Schedule("10:2,0:1,10..30:4");
  EXPECT_DOUBLE_EQ(schedule.LevelAt(1), 10);
  EXPECT_DOUBLE_EQ(schedule.LevelAt(2.5), 0);
  EXPECT_DOUBLE_EQ(schedule.LevelAt(5), 20);
  EXPECT_DOUBLE_EQ(schedule.LevelAt(8), 0);
  EXPECT_DOUBLE_EQ(schedule.Cumulative(7), 20 + 80);
  EXPECT_DOUBLE_EQ(schedule.seconds(), 7);
  EXPECT_DOUBLE_EQ(schedule.max_level(), 30);
}

TEST(RateScheduleTest, TimeOfIsTheInverseOfCumulative) {
  for (const char* text : {"5:3,5..50:10,50..2:7,8", "1..100:20:exp", "100..1:20:exp", "0..9:9"}) {
    const RateSchedule schedule = Schedule(text);
    for (double t = 0.25; t < std::min(schedule.seconds(), 30.0); t += 0.25) {
      const auto back = schedule.TimeOf(schedule.Cumulative(t));
      ASSERT_TRUE(back.has_value()) << text;
      EXPECT_NEAR(*back, t, 1e-9) << text;
    }
  }
}

TEST(RateScheduleTest, EndsWhenItsSegmentsDo) {
  EXPECT_FALSE(Schedule("10:2").TimeOf(20.01).has_value());
  EXPECT_NEAR(*Schedule("10").TimeOf(1000), 100, 1e-9);
}

TEST(RateScheduleTest, RefusesWhatItDoesNotUnderstand) {
  for (const char* text : {"", "x", "10:", "10:0", "10:-1", "1..2", "10,20:3", "-1", "1..2:3:log",
                           "0..5:3:exp", "nan", "1e30", "10:1:exp:2", "0", "inf"}) {
    const auto schedule = RateSchedule::Parse(text);
    EXPECT_EQ(schedule.status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
  EXPECT_THAT(RateSchedule::Parse("1,2:3").status().message(), HasSubstr("'1' needs its seconds"));
}

TEST(RateArrivalsTest, ConstantOnesAreEvenAndStartAtOnce) {
  const auto times = AllArrivals({.schedule = Schedule("4:1"), .shape = GapShape::kConstant});
  EXPECT_THAT(times, ElementsAre(0, 0.25, 0.5, 0.75, 1));
}

TEST(RateArrivalsTest, PoissonOnesHaveTheRateAndTheVariationOfPoisson) {
  const auto times = AllArrivals({.schedule = Schedule("100:200"), .seed = 3});
  EXPECT_NEAR(static_cast<double>(times.size()), 20000, 600);  // four standard deviations
  EXPECT_NEAR(Variation(times), 1, 0.05);
}

TEST(RateArrivalsTest, GammaOnesVaryAsTheirBurstinessSays) {
  for (const double burstiness : {0.25, 1.0, 4.0}) {
    const auto times = AllArrivals({.schedule = Schedule("100:200"),
                                    .shape = GapShape::kGamma,
                                    .burstiness = burstiness,
                                    .seed = 5});
    EXPECT_NEAR(Variation(times), 1 / std::sqrt(burstiness), 0.1) << burstiness;
    EXPECT_NEAR(static_cast<double>(times.size()), 20000, 1200) << burstiness;
  }
}

TEST(RateArrivalsTest, ARampBringsMoreInItsSecondHalf) {
  const auto times = AllArrivals({.schedule = Schedule("0..100:100"), .seed = 1});
  double in_first_half = 0;
  for (const double t : times) in_first_half += t < 50;
  EXPECT_NEAR(in_first_half / static_cast<double>(times.size()), 0.25, 0.03);
}

TEST(RateArrivalsTest, TheSeedDecides) {
  const auto first = AllArrivals({.schedule = Schedule("10"), .seed = 1}, 10);
  EXPECT_EQ(first, AllArrivals({.schedule = Schedule("10"), .seed = 1}, 10));
  EXPECT_NE(first, AllArrivals({.schedule = Schedule("10"), .seed = 2}, 10));
}

TEST(SlotStartsTest, AConstantLevelStartsAtOnceOrOverTheRampUp) {
  EXPECT_THAT(SlotStarts(RateSchedule::Constant(3), 0), ElementsAre(0, 0, 0));
  EXPECT_THAT(SlotStarts(RateSchedule::Constant(4), 2), ElementsAre(0, 0.5, 1, 1.5));
}

TEST(SlotStartsTest, FollowsStepsUpAndBringsBackWhatAStepDownEnded) {
  const std::vector<double> starts = SlotStarts(Schedule("2:1,5:1,1:1,3"), 0);
  ASSERT_EQ(starts.size(), 2u + 3 + 2);
  EXPECT_NEAR(starts[2], 1, 0.011);
  EXPECT_NEAR(starts[5], 3, 0.011);
}

TEST(DistributionTest, SamplesHaveTheMeanAndStayInRange) {
  for (const char* text : {"128", "64..192", "normal:128:30", "lognormal:128:60", "exp:128"}) {
    const Distribution distribution = Distribution::Parse(text, 1, 100000).value();
    double sum = 0;
    for (int i = 0; i < 20000; ++i) {
      Random random(9, static_cast<uint64_t>(i));
      const int64_t sample = distribution.SampleInteger(random);
      ASSERT_GE(sample, 1);
      ASSERT_LE(sample, 100000);
      sum += static_cast<double>(sample);
    }
    EXPECT_NEAR(sum / 20000, 128, 4) << text;
  }
}

TEST(DistributionTest, AUniformOneReachesBothEnds) {
  const Distribution distribution = Distribution::Parse("3..5", 1, 10).value();
  std::vector<int> counts(6);
  for (uint64_t i = 0; i < 3000; ++i) {
    Random random(1, i);
    ++counts.at(static_cast<size_t>(distribution.SampleInteger(random)));
  }
  EXPECT_NEAR(counts[3], 1000, 120);
  EXPECT_NEAR(counts[5], 1000, 120);
}

TEST(DistributionTest, RefusesWhatItDoesNotUnderstand) {
  for (const char* text : {"", "x", "0", "5..1", "1..9999", "normal:5", "normal:5:-1",
                           "lognormal:5", "exp:0", "1:2", "normal:a:b", "inf", "nan"}) {
    EXPECT_FALSE(Distribution::Parse(text, 1, 1000).ok()) << text;
  }
}

}  // namespace
}  // namespace moed::load
