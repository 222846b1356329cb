#include "server/placement/load_placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace moed {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Loads `json` for 2 MoE layers of 3 experts on 2 ranks.
absl::StatusOr<ExpertPlacement> LoadJson(const std::string& json) {
  const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
  const std::string path = ::testing::TempDir() + "/" + info->name() + ".json";
  std::ofstream(path) << json;
  auto placement = LoadPlacement(path, 2, 3, 2);
  std::filesystem::remove(path);
  return placement;
}

TEST(LoadPlacementTest, TheNamedPlacementsAreTheOnesOfTheEngineApi) {
  EXPECT_EQ(*LoadPlacement("linear", 2, 5, 3), ExpertPlacement::Linear(2, 5, 3));
  EXPECT_EQ(*LoadPlacement("round_robin", 2, 5, 3), ExpertPlacement::RoundRobin(2, 5, 3));
}

TEST(LoadPlacementTest, AFileGivesSlotsWithReplicas) {
  const auto placement =
      LoadJson(R"({"num_slots": 4, "layers": {"0": [2, 0, 1, 2], "1": [0, 1, 2, 0]}})");
  ASSERT_TRUE(placement.ok()) << placement.status();
  EXPECT_THAT(placement->layers[0].slot_to_expert, ElementsAre(2, 0, 1, 2));
  EXPECT_THAT(placement->layers[1].slot_to_expert, ElementsAre(0, 1, 2, 0));
  EXPECT_THAT(placement->layers[1].rank_slot_begin, ElementsAre(0, 2, 4));
}

TEST(LoadPlacementTest, SlotsAreSpreadAsLinearDoesWhenRanksDoNotDivideThem) {
  const auto placement =
      LoadJson(R"({"num_slots": 3, "layers": {"0": [0, 1, 2], "1": [0, 1, 2]}})");
  ASSERT_TRUE(placement.ok()) << placement.status();
  EXPECT_EQ(*placement, ExpertPlacement::Linear(2, 3, 2));
}

TEST(LoadPlacementTest, FaultsAreRefusedByName) {
  const auto error = [](const std::string& json) {
    const absl::Status status = LoadJson(json).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    return std::string(status.message());
  };
  EXPECT_THAT(error(R"({"num_slots": 7, "layers": {}})"), HasSubstr("num_slots"));
  EXPECT_THAT(error(R"({"num_slots": 2, "layers": {}})"), HasSubstr("num_slots"));
  EXPECT_THAT(error(R"({"num_slots": 3})"), HasSubstr("each of 2 MoE layers, got 0"));
  EXPECT_THAT(error(R"({"num_slots": 3, "layers": {"0": [0, 1, 2]}})"),
              HasSubstr("each of 2 MoE layers, got 1"));
  EXPECT_THAT(error(R"({"num_slots": 3, "layers": {"0": [0, 1, 2], "7": [0, 1, 2]}})"),
              HasSubstr("'layers.1'"));
  EXPECT_THAT(error(R"({"num_slots": 3, "layers": {"0": [0, 1, 3], "1": [0, 1, 2]}})"),
              HasSubstr("layers.0"));
  EXPECT_THAT(error(R"({"num_slots": 3, "layers": {"0": [0, 1], "1": [0, 1, 2]}})"),
              HasSubstr("expected num_slots = 3 experts, got 2"));
  EXPECT_THAT(error(R"({"num_slots": 3, "layers": {"0": [0, 1, 1], "1": [0, 1, 2]}})"),
              HasSubstr("no slot holds expert 2"));
  EXPECT_THAT(error(R"({"num_slots": 4, "layers": {"0": [0, 0, 1, 2], "1": [0, 1, 2, 0]}})"),
              HasSubstr("second copy of expert 0"));
  EXPECT_THAT(error(R"({"num_slots": 3, "layers": {}, "epoch": 1})"), HasSubstr("epoch"));
  EXPECT_THAT(error("[]"), HasSubstr("FaultsAreRefusedByName.json"));
}

TEST(LoadPlacementTest, AMissingFileIsNotFound) {
  const absl::Status status = LoadPlacement("/nowhere/placement.json", 2, 3, 2).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(status.message(), HasSubstr("/nowhere/placement.json"));
}

}  // namespace
}  // namespace moed
