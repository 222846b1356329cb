#include "engine/api/expert_placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace moed {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

ExpertPlacement OneLayer(std::vector<int32_t> slot_to_expert, std::vector<int32_t> rank_slot_begin,
                         int32_t num_experts) {
  ExpertPlacement placement;
  placement.num_ranks = static_cast<int32_t>(rank_slot_begin.size()) - 1;
  placement.num_experts = num_experts;
  placement.layers = {{std::move(slot_to_expert), std::move(rank_slot_begin)}};
  return placement;
}

std::string ErrorOf(const ExpertPlacement& placement) {
  const absl::Status status = placement.Validate();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  return std::string(status.message());
}

TEST(ExpertPlacementTest, LinearGivesEachRankAContiguousRange) {
  const ExpertPlacement placement = ExpertPlacement::Linear(2, 5, 2);
  ASSERT_TRUE(placement.Validate().ok());
  ASSERT_EQ(placement.layers.size(), 2u);
  EXPECT_THAT(placement.layers[1].slot_to_expert, ElementsAre(0, 1, 2, 3, 4));
  EXPECT_THAT(placement.layers[1].rank_slot_begin, ElementsAre(0, 3, 5));
}

TEST(ExpertPlacementTest, RoundRobinDealsTheExpertsOutLikeCards) {
  const ExpertPlacement placement = ExpertPlacement::RoundRobin(1, 5, 2);
  ASSERT_TRUE(placement.Validate().ok());
  EXPECT_THAT(placement.layers[0].slot_to_expert, ElementsAre(0, 2, 4, 1, 3));
  EXPECT_THAT(placement.layers[0].rank_slot_begin, ElementsAre(0, 3, 5));
}

TEST(ExpertPlacementTest, EveryCombinationIsValidAndAsEvenAsItCanBe) {
  for (int32_t experts = 1; experts <= 17; ++experts) {
    for (int32_t ranks = 1; ranks <= 8; ++ranks) {
      for (const ExpertPlacement& placement : {ExpertPlacement::Linear(1, experts, ranks),
                                               ExpertPlacement::RoundRobin(1, experts, ranks)}) {
        ASSERT_TRUE(placement.Validate().ok()) << placement.Validate();
        const std::vector<int32_t>& begin = placement.layers[0].rank_slot_begin;
        for (int32_t rank = 0; rank < ranks; ++rank) {
          const int32_t held = begin[rank + 1] - begin[rank];
          EXPECT_GE(held, experts / ranks);
          EXPECT_LE(held, (experts + ranks - 1) / ranks);
        }
      }
    }
  }
}

TEST(ExpertPlacementTest, ReplicasOnDifferentRanksAreValid) {
  EXPECT_TRUE(OneLayer({0, 1, 1, 2}, {0, 2, 4}, 3).Validate().ok());
}

TEST(ExpertPlacementTest, ARankWithoutSlotsIsValid) {
  EXPECT_TRUE(OneLayer({0, 1}, {0, 0, 2}, 2).Validate().ok());
}

TEST(ExpertPlacementTest, ASecondCopyOnOneRankIsRefusedByRankAndExpert) {
  EXPECT_THAT(ErrorOf(OneLayer({0, 1, 1, 2}, {0, 3, 4}, 3)),
              HasSubstr("slot 2 gives rank 0 a second copy of expert 1"));
}

TEST(ExpertPlacementTest, AnExpertThatNobodyHoldsIsRefused) {
  EXPECT_THAT(ErrorOf(OneLayer({0, 2, 0}, {0, 2, 3}, 3)),
              HasSubstr("layer 0: no slot holds expert 1"));
}

TEST(ExpertPlacementTest, FewerSlotsThanExpertsAreRefused) {
  EXPECT_THAT(ErrorOf(OneLayer({0, 1}, {0, 1, 2}, 2000000000)),
              HasSubstr("2 slots cannot hold 2000000000 experts"));
}

TEST(ExpertPlacementTest, AnExpertOutOfRangeIsRefused) {
  EXPECT_THAT(ErrorOf(OneLayer({0, 3, 1}, {0, 2, 3}, 3)), HasSubstr("slot 1 holds expert 3"));
  EXPECT_THAT(ErrorOf(OneLayer({-1, 0}, {0, 1, 2}, 1)), HasSubstr("slot 0 holds expert -1"));
}

TEST(ExpertPlacementTest, SlotRangesThatDoNotAddUpAreRefused) {
  EXPECT_THAT(ErrorOf(OneLayer({0, 1}, {0, 1, 3}, 2)), HasSubstr("runs from 0 to 3"));
  EXPECT_THAT(ErrorOf(OneLayer({0, 1}, {1, 1, 2}, 2)), HasSubstr("runs from 1 to 2"));
  EXPECT_THAT(ErrorOf(OneLayer({0, 1}, {0, 2, 1, 2}, 2)), HasSubstr("rank 1's slots begin at 2"));
  ExpertPlacement wrong_ranks = OneLayer({0, 1}, {0, 1, 2}, 2);
  wrong_ranks.num_ranks = 3;
  EXPECT_THAT(ErrorOf(wrong_ranks), HasSubstr("has 3 entries, expected num_ranks + 1 = 4"));
}

TEST(ExpertPlacementTest, AFieldThatIsNotPositiveIsRefused) {
  EXPECT_THAT(ErrorOf(ExpertPlacement{.epoch = 0, .num_ranks = 0, .num_experts = 1, .layers = {}}),
              HasSubstr("num_ranks is 0"));
}

}  // namespace
}  // namespace moed
