/// A request's tokens and logprobs depend on the model, the prompt, the sampling parameters and the
/// seed, and on nothing else (design.md, section 3): compared to the last bit.

#include <algorithm>
#include <cstdint>
#include <ostream>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/mini_driver.h"
#include "tests/fakes/placements.h"
#include "tests/fakes/tiny_model.h"

namespace moed {
namespace {

constexpr int32_t kNumSequences = 32;
constexpr int32_t kSharedPrefix = 21;  // tokens; not a multiple of the block size

using Outputs = std::vector<std::vector<SampledToken>>;

/// Greedy, plain sampling, filtered sampling and penalties in turn; all with logprobs.
SamplingParams SamplingOf(int32_t index) {
  SamplingParams params = {.temperature = index % 4 == 0 ? 0.0f : 1.0f,
                           .seed = static_cast<uint64_t>(1000 + index / 2),
                           .num_top_logprobs = 4};
  if (index % 4 == 2) {
    params.top_k = 20;
    params.top_p = 0.9f;
    params.min_p = 0.01f;
  }
  if (index % 4 == 3) {
    params.presence_penalty = 0.5f;
    params.frequency_penalty = 0.25f;
    params.repetition_penalty = 1.2f;
  }
  return params;
}

/// Prompts of 1 to 60 tokens. Every fourth one starts as the one before it does.
std::vector<DrivenSequence> Workload(int32_t vocab_size) {
  std::vector<DrivenSequence> sequences(kNumSequences);
  for (int32_t i = 0; i < kNumSequences; ++i) {
    const int32_t length = i % 4 >= 2 ? 24 + i : 1 + (i * 7) % 40;
    sequences[i].prompt = RandomTokens(length, vocab_size, static_cast<uint64_t>(i));
    if (i % 4 == 3) {
      std::copy_n(sequences[i - 1].prompt.begin(), kSharedPrefix, sequences[i].prompt.begin());
    }
    sequences[i].num_new_tokens = 3 + i % 5;
    sequences[i].sampling = SamplingOf(i);
    sequences[i].sequence_index = static_cast<uint32_t>(i % 2);
  }
  return sequences;
}

/// A model in one of its forms.
struct Model {
  std::string name;
  std::string dir;  // empty = the tiny model with dummy weights
  DType dtype = DType::kBF16;
  std::string instruction_set;  // "" = the best of this machine
  int32_t stride = 1;           // use every stride-th sequence: larger models take longer
  uint64_t num_random = 8;      // circumstances drawn by chance
  kernels::WeightFormat weights = kernels::WeightFormat::kStored;
};

/// What must not matter.
struct Circumstances {
  std::string name;
  int32_t num_ranks = 1;
  PlacementKind placement = PlacementKind::kLinear;
  int32_t chunk = 1 << 20;
  int32_t num_threads = 1;
  int32_t max_tokens_per_step = 256;  // of one rank; prompts that do not fit are cut
  int32_t batch = kNumSequences;      // sequences driven at the same time
  int32_t max_first_step = 0;         // sequences join at random steps up to this
  bool cached_prefix = false;
  bool preempted = false;
  uint64_t seed = 1;
};

void PrintTo(const Model& model, std::ostream* out) { *out << model.name; }

/// The tiny model on every instruction set, one whose rows are no multiple of a group, and the demo
/// model, in both integer formats.
void AddIntegerModels(std::vector<Model>& models) {
  const std::string root = MOED_SOURCE_DIR;
  const std::string odd = root + "/tests/testdata/models/qwen2_moe_fused";
  for (const auto& [format, name] :
       {std::pair(kernels::WeightFormat::kInt8, "Int8"), {kernels::WeightFormat::kInt4, "Int4"}}) {
    for (const auto& [instruction_set, suffix] : {std::pair("", ""),
                                                  {"portable", "Portable"},
                                                  {"avx2", "Avx2"},
                                                  {"avx512", "Avx512"},
                                                  {"avx512_vnni", "Avx512Vnni"}}) {
      models.push_back(
          {absl::StrCat("Tiny", name, suffix), "", DType::kBF16, instruction_set, 1, 2, format});
    }
    models.push_back({absl::StrCat("Odd", name), odd, DType::kBF16, "", 2, 4, format});
    models.push_back(
        {absl::StrCat("Demo", name), root + "/config/demo", DType::kBF16, "", 4, 1, format});
  }
}

std::vector<Model> Models() {
  std::vector<Model> models = {{"TinyF32", "", DType::kF32, ""},
                               {"TinyBf16", "", DType::kBF16, ""},
                               {"TinyPortable", "", DType::kBF16, "portable"},
                               {"TinyAvx2", "", DType::kBF16, "avx2"},
                               {"TinyAvx512", "", DType::kBF16, "avx512"}};
  const std::string root = MOED_SOURCE_DIR;
  const std::string fixtures = root + "/tests/testdata/models/";
  models.push_back({"Fixture", fixtures + "qwen3_moe_basic", DType::kBF16, "", 2});
  models.push_back({"Olmoe", fixtures + "olmoe_basic", DType::kBF16, "", 2, 4});
  models.push_back({"GraniteShared", fixtures + "granitemoeshared_basic", DType::kBF16, "", 2, 4});
  models.push_back({"Qwen2Dense", fixtures + "qwen2_moe_dense_layers", DType::kBF16, "", 2, 4});
  models.push_back({"Demo", root + "/config/demo", DType::kBF16, "", 4});
  AddIntegerModels(models);
  return models;
}

std::vector<Circumstances> ChosenCircumstances() {
  using K = PlacementKind;
  return {
      {.name = "InOneBatch"},
      {.name = "InStepsOf13Tokens", .max_tokens_per_step = 13, .seed = 15},
      {.name = "InBatchesOf5", .batch = 5, .max_first_step = 3, .seed = 2},
      {.name = "InBatchesOf17WithTwoThreads", .num_threads = 2, .batch = 17, .seed = 3},
      {.name = "TokenByToken", .chunk = 1, .max_first_step = 9, .seed = 4},
      {.name = "InChunksOf7", .chunk = 7, .num_threads = 2, .max_first_step = 5, .seed = 5},
      {.name = "InChunksOf64", .chunk = 64, .seed = 6},
      {.name = "WithACachedPrefix", .cached_prefix = true, .seed = 7},
      {.name = "Preempted", .chunk = 16, .preempted = true, .seed = 8},
      {.name = "OnTwoRanks", .num_ranks = 2, .chunk = 64, .seed = 9},
      {.name = "OnTwoRanksReplicated",
       .num_ranks = 2,
       .placement = K::kReplicated,
       .num_threads = 2,
       .max_first_step = 6,
       .cached_prefix = true,
       .seed = 10},
      {.name = "OnThreeRanksRoundRobin",
       .num_ranks = 3,
       .placement = K::kRoundRobin,
       .chunk = 7,
       .seed = 11},
      {.name = "OnThreeRanksShuffled",
       .num_ranks = 3,
       .placement = K::kShuffled,
       .max_first_step = 4,
       .preempted = true,
       .seed = 12},
      {.name = "OnFourRanksShuffled",
       .num_ranks = 4,
       .placement = K::kShuffled,
       .max_tokens_per_step = 40,
       .batch = 3,
       .seed = 13},
      {.name = "OnFourRanksReplicated",
       .num_ranks = 4,
       .placement = K::kReplicated,
       .chunk = 7,
       .max_first_step = 8,
       .cached_prefix = true,
       .preempted = true,
       .seed = 14},
  };
}

/// Circumstances drawn by chance, every kind of them together.
Circumstances RandomCircumstances(uint64_t seed) {
  std::mt19937_64 rng(seed);
  const int32_t chunks[] = {1, 7, 64, 1 << 20};
  const int32_t step_tokens[] = {19, 64, 256};
  const PlacementKind placements[] = {PlacementKind::kLinear, PlacementKind::kRoundRobin,
                                      PlacementKind::kShuffled, PlacementKind::kReplicated};
  Circumstances c = {.name = absl::StrCat("Random", seed),
                     .num_ranks = 1 + static_cast<int32_t>(rng() % 4),
                     .placement = placements[rng() % 4],
                     .chunk = chunks[rng() % 4],
                     .num_threads = 1 + static_cast<int32_t>(rng() % 2),
                     .max_tokens_per_step = step_tokens[rng() % 3],
                     .batch = 1 + static_cast<int32_t>(rng() % kNumSequences),
                     .max_first_step = static_cast<int32_t>(rng() % 12),
                     .preempted = rng() % 2 == 0,
                     .seed = seed};
  // Sequences that share a prefix must be in one batch.
  if (rng() % 2 == 0) {
    c.batch = kNumSequences;
    c.cached_prefix = true;
  }
  return c;
}

class InvarianceTest : public ::testing::TestWithParam<Model> {
 protected:
  void SetUp() override {
    const Model& model = GetParam();
    if (absl::IsInvalidArgument(
            kernels::CreateBackend({.instruction_set = model.instruction_set}).status())) {
      GTEST_SKIP() << "this machine or build has no " << model.instruction_set;
    }
    config_ = TinyModelConfig();
    if (!model.dir.empty()) {
      const auto config = LoadModelConfig(model.dir);
      ASSERT_TRUE(config.ok()) << config.status();
      config_ = *config;
    }
    const auto all = Workload(static_cast<int32_t>(config_.vocab_size));
    for (int32_t i = 0; i < kNumSequences; ++i) {
      // Whole groups of four, so that each keeps the one it shares its prefix with.
      if (i / 4 % model.stride == 0) workload_.push_back(all[i]);
    }
  }

  LocalEngineGroupOptions GroupOptions(const Circumstances& c) const {
    const Model& model = GetParam();
    LocalEngineGroupOptions options =
        TinyGroupOptions(MakeTestPlacement(c.placement, config_, c.num_ranks, c.seed));
    options.config = config_;
    if (!model.dir.empty()) {
      options.loader.format = LoadFormat::kAuto;
      options.loader.model_dir = model.dir;
    }
    options.loader.weight_format = model.weights;
    options.engine.backend.activation_dtype = model.dtype;
    options.engine.backend.instruction_set = model.instruction_set;
    options.engine.backend.num_threads = c.num_threads;
    options.engine.kv_dtype = model.dtype;
    options.engine.num_blocks = 800;
    options.engine.max_tokens_per_step = c.max_tokens_per_step;
    return options;
  }

  /// Every sequence alone, on one rank with one thread, its prompt at once.
  Outputs Alone() const {
    auto group = LocalEngineGroup::Create(GroupOptions({}));
    EXPECT_TRUE(group.ok()) << group.status();
    if (!group.ok()) return {};
    Outputs outputs;
    for (const DrivenSequence& sequence : workload_) {
      auto output = Drive(**group, {sequence}, 1 << 20);
      EXPECT_TRUE(output.ok()) << output.status();
      if (!output.ok()) return {};
      outputs.push_back(std::move(output->front()));
    }
    return outputs;
  }

  /// The sequences [begin, begin + c.batch) as the circumstances want them.
  std::vector<DrivenSequence> Batch(const Circumstances& c, size_t begin,
                                    std::mt19937_64& rng) const {
    std::vector<DrivenSequence> batch;
    const size_t end = std::min(workload_.size(), begin + c.batch);
    for (size_t i = begin; i < end; ++i) {
      DrivenSequence sequence = workload_[i];
      sequence.rank = static_cast<int32_t>(rng() % c.num_ranks);
      sequence.first_step = static_cast<int32_t>(rng() % (c.max_first_step + 1));
      const bool shares = c.cached_prefix && i % 4 == 3;
      if (shares) {
        sequence.shares_prefix_with = static_cast<int32_t>(batch.size()) - 1;
        sequence.rank = batch.back().rank;
      }
      // A sequence whose blocks are shared must keep them.
      const bool is_shared = c.cached_prefix && i % 4 == 2;
      if (c.preempted && !is_shared) sequence.preempt_after = 1 + static_cast<int32_t>(i % 3);
      batch.push_back(std::move(sequence));
    }
    return batch;
  }

  Outputs Under(const Circumstances& c) const {
    auto group = LocalEngineGroup::Create(GroupOptions(c));
    EXPECT_TRUE(group.ok()) << group.status();
    if (!group.ok()) return {};
    std::mt19937_64 rng(c.seed);
    Outputs outputs;
    for (size_t begin = 0; begin < workload_.size(); begin += c.batch) {
      auto output = Drive(**group, Batch(c, begin, rng), c.chunk);
      EXPECT_TRUE(output.ok()) << output.status();
      if (!output.ok()) return {};
      std::move(output->begin(), output->end(), std::back_inserter(outputs));
    }
    return outputs;
  }

  ModelConfig config_;
  std::vector<DrivenSequence> workload_;
};

/// The id of a sequence is the place in its batch.
void ForgetSequenceIds(Outputs& outputs) {
  for (std::vector<SampledToken>& output : outputs) {
    for (SampledToken& token : output) token.sequence_id = 0;
  }
}

TEST_P(InvarianceTest, TokensAndLogprobsDoNotDependOnCircumstances) {
  Outputs expected = Alone();
  ASSERT_EQ(expected.size(), workload_.size());
  ForgetSequenceIds(expected);
  std::vector<Circumstances> all = ChosenCircumstances();
  for (uint64_t i = 0; i < GetParam().num_random; ++i) all.push_back(RandomCircumstances(100 + i));
  for (const Circumstances& circumstances : all) {
    SCOPED_TRACE(circumstances.name);
    Outputs actual = Under(circumstances);
    ASSERT_EQ(actual.size(), expected.size());
    ForgetSequenceIds(actual);
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_TRUE(actual[i] == expected[i]) << "sequence " << i;
    }
  }
}

/// The comparison above would prove nothing if all sequences gave the same tokens.
TEST_P(InvarianceTest, SequencesDiffer) {
  const Outputs outputs = Alone();
  std::vector<int32_t> first_tokens;
  for (const auto& output : outputs) first_tokens.push_back(output.at(0).token_id);
  std::sort(first_tokens.begin(), first_tokens.end());
  const auto end = std::unique(first_tokens.begin(), first_tokens.end());
  EXPECT_GT(end - first_tokens.begin(), 3);
}

INSTANTIATE_TEST_SUITE_P(Models, InvarianceTest, ::testing::ValuesIn(Models()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace moed
