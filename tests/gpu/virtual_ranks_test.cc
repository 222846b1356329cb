/// Several ranks on one GPU: threads of this process, each an engine with a stream and weights of
/// its own, that read each other's memory. MOED_VIRTUAL_RANKS names the numbers of ranks.

#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "engine/runtime/local_engine_group.h"
#include "gtest/gtest.h"
#include "tests/fakes/mini_driver.h"
#include "tests/fakes/placements.h"
#include "tests/fakes/tiny_model.h"
#include "tests/gpu/device_communicator.h"

namespace moed {
namespace {

struct Setup {
  kernels::BackendOptions backend;
  int32_t num_ranks = 1;
  PlacementKind placement = PlacementKind::kLinear;
};

LocalEngineGroupOptions DemoOptions(const Setup& setup) {
  LocalEngineGroupOptions options = TinyGroupOptions({});
  options.loader = {.model_dir = MOED_SOURCE_DIR "/config/demo"};
  const auto config = LoadModelConfig(options.loader.model_dir);
  EXPECT_TRUE(config.ok()) << config.status();
  options.config = *config;
  options.placement = MakeTestPlacement(setup.placement, options.config, setup.num_ranks);
  options.engine.backend = setup.backend;
  options.engine.kv_dtype = DType::kBF16;
  options.engine.max_model_len = 0;
  return options;
}

std::vector<std::vector<int32_t>> Tokens(const Setup& setup,
                                         const std::vector<DrivenSequence>& sequences) {
  LocalEngineGroupOptions options = DemoOptions(setup);
  DeviceMeetingPoint point(setup.num_ranks);
  if (setup.num_ranks > 1) {
    options.make_communicator = [&point](int32_t rank) {
      return CreateDeviceCommunicator(point, rank);
    };
  }
  const auto group = LocalEngineGroup::Create(options);
  EXPECT_TRUE(group.ok()) << group.status();
  if (!group.ok()) return {};
  const auto sampled = Drive(**group, sequences, 16);
  EXPECT_TRUE(sampled.ok()) << sampled.status();
  if (!sampled.ok()) return {};
  std::vector<std::vector<int32_t>> tokens;
  for (const auto& sequence : *sampled) {
    tokens.emplace_back();
    for (const SampledToken& token : sequence) tokens.back().push_back(token.token_id);
  }
  return tokens;
}

std::vector<DrivenSequence> Prompts(int32_t num_ranks) {
  std::vector<DrivenSequence> sequences;
  for (int32_t i = 0; i < 5; ++i) {
    sequences.push_back({.prompt = RandomTokens(3 + 9 * i, 4096, 7 + i),
                         .num_new_tokens = 4,
                         .rank = i % num_ranks,
                         .first_step = i % 3});
  }
  return sequences;
}

std::vector<int32_t> NumbersOfRanks() {
  const char* given = std::getenv("MOED_VIRTUAL_RANKS");
  std::vector<int32_t> numbers;
  for (const auto& text : absl::StrSplit(given == nullptr ? "2" : given, ',')) {
    int32_t number = 0;
    EXPECT_TRUE(absl::SimpleAtoi(text, &number) && number > 0) << text;
    numbers.push_back(number);
  }
  return numbers;
}

TEST(VirtualRanksTest, RanksThatShareAGpuGenerateTheGreedyTokensOfOneCpuRank) {
  const auto expected = Tokens({.backend = {.instruction_set = "portable"}}, Prompts(1));
  ASSERT_EQ(expected.size(), 5u);
  for (const int32_t num_ranks : NumbersOfRanks()) {
    EXPECT_EQ(Tokens({.backend = {.device = "cuda:0"},
                      .num_ranks = num_ranks,
                      .placement = PlacementKind::kReplicated},
                     Prompts(num_ranks)),
              expected)
        << num_ranks << " ranks";
  }
}

}  // namespace
}  // namespace moed
