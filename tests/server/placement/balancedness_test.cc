#include "server/placement/balancedness.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

namespace moed {
namespace {

using ::testing::DoubleEq;
using ::testing::ElementsAre;

TEST(BalancednessTest, IsMeanOverMax) {
  EXPECT_DOUBLE_EQ(Balancedness(std::vector<double>{4, 4, 4}), 1);
  EXPECT_DOUBLE_EQ(Balancedness(std::vector<double>{9, 0, 0}), 1.0 / 3);
  EXPECT_DOUBLE_EQ(Balancedness(std::vector<double>{0, 0}), 0);
  EXPECT_DOUBLE_EQ(Balancedness({}), 0);
}

TEST(BalancednessTest, RowsOfAReplicatedExpertAreSplit) {
  const ExpertPlacement::Layer layer{.slot_to_expert = {0, 1, 0, 2}, .rank_slot_begin = {0, 2, 4}};
  EXPECT_THAT(RowsPerRank(layer, std::vector<int64_t>{10, 3, 1}), ElementsAre(8.0, 6.0));
}

TEST(BalancednessTest, EveryLayerHasItsOwn) {
  const ExpertPlacement placement = ExpertPlacement::Linear(2, 4, 2);
  const std::vector<int64_t> tokens = {1, 1, 1, 1, 6, 0, 1, 1};
  EXPECT_THAT(LayerBalancedness(placement, tokens), ElementsAre(DoubleEq(1), DoubleEq(4.0 / 6)));
}

}  // namespace
}  // namespace moed
