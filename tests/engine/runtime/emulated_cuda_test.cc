/// The engine on the CUDA backend. Without a GPU this program's CreateBackend knows "cuda:0", the
/// device of tests/cuda_emulation.

#include <string>
#include <vector>

#include "engine/runtime/local_engine_group.h"
#include "gtest/gtest.h"
#include "tests/fakes/mini_driver.h"
#include "tests/fakes/placements.h"
#include "tests/fakes/tiny_model.h"
#ifdef MOED_CUDA_EMULATION
#include "tests/cuda_emulation/emulated_device.h"
#endif

namespace moed {
namespace {

/// The bundled demo model on one rank.
LocalEngineGroupOptions DemoOptions(const kernels::BackendOptions& backend) {
  LocalEngineGroupOptions options = TinyGroupOptions({});
  options.loader = {.model_dir = MOED_SOURCE_DIR "/config/demo"};
  const auto config = LoadModelConfig(options.loader.model_dir);
  EXPECT_TRUE(config.ok()) << config.status();
  options.config = *config;
  options.placement = MakeTestPlacement(PlacementKind::kLinear, options.config, 1);
  options.engine.backend = backend;
  options.engine.kv_dtype = DType::kBF16;
  options.engine.max_model_len = 0;
  return options;
}

std::vector<std::vector<int32_t>> Tokens(const kernels::BackendOptions& backend,
                                         const std::vector<DrivenSequence>& sequences,
                                         int32_t chunk) {
  const auto group = LocalEngineGroup::Create(DemoOptions(backend));
  EXPECT_TRUE(group.ok()) << group.status();
  if (!group.ok()) return {};
  EXPECT_EQ((*group)->info(0).device, backend.device);
  const auto sampled = Drive(**group, sequences, chunk);
  EXPECT_TRUE(sampled.ok()) << sampled.status();
  if (!sampled.ok()) return {};
  std::vector<std::vector<int32_t>> tokens;
  for (const auto& sequence : *sampled) {
    tokens.emplace_back();
    for (const SampledToken& token : sequence) tokens.back().push_back(token.token_id);
  }
  return tokens;
}

std::vector<DrivenSequence> Prompts(const SamplingParams& sampling) {
  std::vector<DrivenSequence> sequences;
  for (int32_t i = 0; i < 3; ++i) {
    sequences.push_back({.prompt = RandomTokens(5 + 11 * i, 4096, 7 + i),
                         .num_new_tokens = 4,
                         .sampling = sampling,
                         .first_step = i});
  }
  return sequences;
}

const kernels::BackendOptions kCuda = {.device = "cuda:0"};

TEST(EmulatedCudaTest, TheDemoModelGeneratesTheGreedyTokensOfTheCpu) {
  const auto sequences = Prompts({.temperature = 0.0f});
  const auto expected = Tokens({.instruction_set = "portable"}, sequences, 16);
  ASSERT_EQ(expected.size(), sequences.size());
  EXPECT_EQ(Tokens(kCuda, sequences, 16), expected);
}

TEST(EmulatedCudaTest, DecodeStepsAreRepeatedFromRecordingsWithTheTokensOfTheCpu) {
  // Steps of three sequences are filled up to four rows; their contexts grow over blocks.
  auto sequences = Prompts({.temperature = 0.0f});
  for (DrivenSequence& sequence : sequences) sequence.num_new_tokens = 7;
  const auto expected = Tokens({.instruction_set = "portable"}, sequences, 64);
#ifdef MOED_CUDA_EMULATION
  const int before = cuda_emulation::NumGraphLaunches();
#endif
  EXPECT_EQ(Tokens(kCuda, sequences, 64), expected);
#ifdef MOED_CUDA_EMULATION
  EXPECT_GE(cuda_emulation::NumGraphLaunches() - before, 3);
#endif
}

TEST(EmulatedCudaTest, TokensDependNeitherOnChunksNorOnCompany) {
  const auto sequences = Prompts({.temperature = 0.9f, .top_p = 0.95f, .seed = 3});
  const auto together = Tokens(kCuda, sequences, 64);
  ASSERT_EQ(together.size(), sequences.size());
  EXPECT_EQ(Tokens(kCuda, sequences, 5), together);
  EXPECT_EQ(Tokens(kCuda, {sequences[1]}, 64)[0], together[1]);
}

}  // namespace
}  // namespace moed
