#include "client/load/stats/significance.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "client/load/stats/random.h"

namespace moed::load {
namespace {

TEST(SignificanceTest, StudentsTAgreesWithTheTables) {
  EXPECT_NEAR(TwoSidedQuantile(0.05, 1), 12.706, 0.001);
  EXPECT_NEAR(TwoSidedQuantile(0.05, 4), 2.776, 0.001);
  EXPECT_NEAR(TwoSidedQuantile(0.05, 30), 2.042, 0.001);
  EXPECT_NEAR(TwoSidedQuantile(0.01, 10), 3.169, 0.001);
  EXPECT_NEAR(TwoSidedP(2.228, 10), 0.05, 0.0001);
  EXPECT_NEAR(TwoSidedP(0, 7), 1, 1e-12);
}

TEST(SignificanceTest, TheConfidenceIntervalIsThatOfTheTextbook) {
  // Mean 5, s = 1.5811, n = 5: 2.776 * s / sqrt(5).
  const SampleMoments moments = MomentsOf(std::vector<double>{3, 4, 5, 6, 7});
  EXPECT_DOUBLE_EQ(moments.mean, 5);
  EXPECT_DOUBLE_EQ(moments.variance, 2.5);
  EXPECT_NEAR(ConfidenceHalfWidth(moments), 1.963, 0.001);
}

TEST(SignificanceTest, WelchsTestAgreesWithScipy) {
  // scipy.stats.ttest_ind([1,2,3,4,5], [2,4,6,8,10], equal_var=False): t -1.8974, p 0.1075.
  const SampleMoments a = MomentsOf(std::vector<double>{1, 2, 3, 4, 5});
  const SampleMoments b = MomentsOf(std::vector<double>{2, 4, 6, 8, 10});
  EXPECT_NEAR(WelchP(a, b), 0.1075, 0.0005);
}

TEST(SignificanceTest, OneSampleProvesNothing) {
  const SampleMoments one = MomentsOf(std::vector<double>{1});
  const SampleMoments two = MomentsOf(std::vector<double>{100, 100});
  EXPECT_EQ(WelchP(one, two), 1);
  EXPECT_EQ(ConfidenceHalfWidth(one), 0);
}

TEST(SignificanceTest, FalseAlarmsComeAsOftenAsTheLevelSays) {
  int num_alarms = 0;
  std::normal_distribution<double> normal(100, 10);
  Random random(7, 0);
  for (int trial = 0; trial < 2000; ++trial) {
    std::vector<double> a, b;
    for (int i = 0; i < 20; ++i) {
      a.push_back(normal(random));
      b.push_back(normal(random));
    }
    if (WelchP(MomentsOf(a), MomentsOf(b)) < 0.05) ++num_alarms;
  }
  EXPECT_NEAR(num_alarms, 100, 40);
}

TEST(SignificanceTest, HolmsMethodRaisesEachByTheNumberOfThoseLeft) {
  const std::vector<double> adjusted = HolmAdjusted(std::vector<double>{0.01, 0.04, 0.03, 0.6});
  EXPECT_NEAR(adjusted[0], 0.04, 1e-12);
  EXPECT_NEAR(adjusted[2], 0.09, 1e-12);
  EXPECT_NEAR(adjusted[1], 0.09, 1e-12);  // never below a smaller one's
  EXPECT_NEAR(adjusted[3], 0.6, 1e-12);
}

}  // namespace
}  // namespace moed::load
