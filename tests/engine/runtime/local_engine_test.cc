#include "engine/runtime/local_engine.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/comm/shm_communicator.h"
#include "engine/runtime/local_engine_group.h"
#include "engine/runtime/memory_estimate.h"
#include "engine/runtime/parse_dtype.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/placements.h"
#include "tests/fakes/tiny_model.h"

namespace moed {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<std::unique_ptr<Engine>> CreateTiny(const LocalEngineGroupOptions& options) {
  return LocalEngine::Create(options.config, options.placement, options.loader, options.engine,
                             [](kernels::Backend&) { return CreateSingleRankCommunicator(); });
}

StepPlan PlanOf(std::vector<int32_t> tokens) {
  const int32_t count = static_cast<int32_t>(tokens.size());
  return {
      .step_id = 1,
      .num_tokens_per_rank = {count},
      .slices = {{.sequence_id = 5,
                  .token_ids = std::move(tokens),
                  .block_table = {0, 1},
                  .sample = SampleRequest{.params = {.temperature = 0.0f, .num_top_logprobs = 2},
                                          .position = count}}}};
}

TEST(LocalEngineTest, DescribesItself) {
  LocalEngineGroupOptions options = TinyGroupOptions(TinyPlacement(1));
  options.engine.backend.num_threads = 2;
  const auto engine = CreateTiny(options);
  ASSERT_TRUE(engine.ok()) << engine.status();
  const EngineInfo& info = (*engine)->info();
  EXPECT_EQ(info.rank, 0);
  EXPECT_EQ(info.num_ranks, 1);
  EXPECT_EQ(info.device, "cpu");
  EXPECT_FALSE(info.instruction_set.empty());
  EXPECT_EQ(info.dtype, "f32");
  EXPECT_EQ(info.num_threads, 2);
  EXPECT_EQ(info.block_size, 4);
  EXPECT_EQ(info.num_blocks, 256);
  EXPECT_EQ(info.max_tokens_per_step, 128);
  EXPECT_EQ(info.max_sequences_per_step, 32);
  EXPECT_EQ(info.exchange_bytes, 0);
}

void ExpectEstimateIsRight(const EngineDType& dtype) {
  for (int32_t num_ranks : {1, 3}) {
    LocalEngineGroupOptions options = TinyGroupOptions({});
    // Dimensions that the kernels need not pad: the estimate of the weights is without padding.
    options.config.vocab_size = 128;
    options.config.num_experts = 64;
    options.placement = MakeTestPlacement(PlacementKind::kReplicated, options.config, num_ranks);
    options.engine.backend.activation_dtype = dtype.activation;
    options.loader.weight_format = dtype.weights;
    const auto group = LocalEngineGroup::Create(options);
    ASSERT_TRUE(group.ok()) << group.status();
    for (int32_t rank = 0; rank < num_ranks; ++rank) {
      SCOPED_TRACE(rank);
      options.loader.rank = rank;
      const auto memory =
          EstimateMemory(options.config, options.placement, options.loader, options.engine);
      ASSERT_TRUE(memory.ok()) << memory.status();
      const EngineInfo& info = (*group)->info(rank);
      EXPECT_EQ(memory->weight_bytes, info.weight_bytes);
      EXPECT_EQ(memory->kv_bytes_per_block * options.engine.num_blocks, info.kv_bytes);
      EXPECT_EQ(memory->exchange_bytes, info.exchange_bytes);
      EXPECT_EQ(memory->workspace_bytes, info.workspace_bytes);
      EXPECT_GT(info.weight_bytes, 0);
      EXPECT_GT(info.workspace_bytes, 0);
      EXPECT_EQ(info.exchange_bytes > 0, num_ranks > 1);
    }
  }
}

TEST(LocalEngineTest, EstimatesTheMemoryThatItThenUses) { ExpectEstimateIsRight({}); }

TEST(LocalEngineTest, EstimatesTheMemoryOfBf16WeightsUnderF32Activations) {
  ExpectEstimateIsRight({.activation = DType::kF32});
}

TEST(LocalEngineTest, EstimatesTheMemoryOfIntegerWeights) {
  ExpectEstimateIsRight({.weights = kernels::WeightFormat::kInt8});
  ExpectEstimateIsRight({.weights = kernels::WeightFormat::kInt4});
}

TEST(LocalEngineTest, EstimatesTheIntegerWeightsOfTheDemoModel) {
  LocalEngineGroupOptions options = TinyGroupOptions({});
  options.loader = {.model_dir = MOED_SOURCE_DIR "/config/demo"};
  const auto config = LoadModelConfig(options.loader.model_dir);
  ASSERT_TRUE(config.ok()) << config.status();
  options.config = *config;
  options.placement = MakeTestPlacement(PlacementKind::kLinear, options.config, 1);
  for (const char* dtype : {"bf16", "int8", "int4"}) {
    options.engine.backend.activation_dtype = ParseEngineDType(dtype)->activation;
    options.loader.weight_format = ParseEngineDType(dtype)->weights;
    const auto engine = CreateTiny(options);
    ASSERT_TRUE(engine.ok()) << engine.status();
    const auto memory =
        EstimateMemory(options.config, options.placement, options.loader, options.engine);
    ASSERT_TRUE(memory.ok()) << memory.status();
    // Of its matrices the kernels pad only the routers, from 16 rows to 64.
    const int64_t padding =
        config->num_layers * (64 - config->num_experts) * config->hidden_size * 2;
    EXPECT_EQ(memory->weight_bytes + padding, (*engine)->info().weight_bytes) << dtype;
    EXPECT_EQ((*engine)->info().dtype, dtype);
  }
}

TEST(LocalEngineTest, RefusesIntegerWeightsUnderF32Activations) {
  LocalEngineGroupOptions options = TinyGroupOptions(TinyPlacement(1));
  options.loader.weight_format = kernels::WeightFormat::kInt8;
  const absl::Status status = CreateTiny(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(status.message(), HasSubstr("bf16 activations"));
}

TEST(LocalEngineTest, EstimatesTheWeightsOfABf16CheckpointUnderF32Activations) {
  LocalEngineGroupOptions options = TinyGroupOptions({});
  options.loader = {.model_dir = MOED_SOURCE_DIR "/tests/testdata/models/qwen3_moe_basic"};
  const auto config = LoadModelConfig(options.loader.model_dir);
  ASSERT_TRUE(config.ok()) << config.status();
  options.config = *config;
  options.placement = MakeTestPlacement(PlacementKind::kLinear, options.config, 1);
  options.engine.backend.activation_dtype = DType::kF32;
  const auto engine = CreateTiny(options);
  ASSERT_TRUE(engine.ok()) << engine.status();
  const auto memory =
      EstimateMemory(options.config, options.placement, options.loader, options.engine);
  ASSERT_TRUE(memory.ok()) << memory.status();
  // Of its matrices the kernels pad only the routers, from 8 rows to 64.
  const int64_t padding = config->num_layers * (64 - config->num_experts) * config->hidden_size * 2;
  EXPECT_EQ(memory->weight_bytes + padding, (*engine)->info().weight_bytes);
}

TEST(LocalEngineTest, ReportsWhatAStepDid) {
  const auto engine = CreateTiny(TinyGroupOptions(TinyPlacement(1)));
  ASSERT_TRUE(engine.ok()) << engine.status();
  const auto result = (*engine)->Execute(PlanOf({1, 2, 3, 4, 5}));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->step_id, 1u);
  ASSERT_EQ(result->sampled.size(), 1u);
  EXPECT_EQ(result->sampled[0].sequence_id, 5u);
  EXPECT_EQ(result->sampled[0].top_logprobs.size(), 2u);
  EXPECT_LT(result->sampled[0].logprob, 0.0f);
  // Two MoE layers, five tokens, three experts each.
  EXPECT_EQ(result->num_expert_rows, 2 * 5 * 3);
  ASSERT_EQ(result->tokens_per_expert.size(), 2u * 10u);
  int32_t rows = 0;
  for (int32_t count : result->tokens_per_expert) rows += count;
  EXPECT_EQ(rows, 2 * 5 * 3);
  const StepTimes& t = result->times;
  for (double seconds : {t.attention, t.attention_kv, t.route, t.experts, t.head, t.sampling}) {
    EXPECT_GT(seconds, 0.0);
  }
  EXPECT_LT(t.attention_kv, t.attention);
  EXPECT_GE(t.total,
            t.attention + t.route + t.dispatch + t.experts + t.combine + t.head + t.sampling);
}

TEST(LocalEngineTest, EveryPairOfActivationAndKvDtypeGivesCloseLogprobs) {
  std::vector<SampledToken> tokens;
  for (DType activation : {DType::kF32, DType::kBF16}) {
    for (DType kv : {DType::kF32, DType::kBF16}) {
      LocalEngineGroupOptions options = TinyGroupOptions(TinyPlacement(1));
      options.engine.backend.activation_dtype = activation;
      options.engine.kv_dtype = kv;
      const auto engine = CreateTiny(options);
      ASSERT_TRUE(engine.ok()) << engine.status();
      const auto result = (*engine)->Execute(PlanOf({9, 8, 7, 6, 5, 4}));
      ASSERT_TRUE(result.ok()) << result.status();
      tokens.push_back(result->sampled.at(0));
    }
  }
  for (const SampledToken& token : tokens) {
    EXPECT_EQ(token.token_id, tokens[0].token_id);
    EXPECT_NEAR(token.logprob, tokens[0].logprob, 0.05f);
  }
  EXPECT_NE(tokens[0].logprob, tokens[3].logprob) << "bf16 computes the same as f32";
}

TEST(LocalEngineTest, StepsAreIndependentOfWhatWasReportedBefore) {
  const auto engine = CreateTiny(TinyGroupOptions(TinyPlacement(1)));
  ASSERT_TRUE(engine.ok()) << engine.status();
  const auto first = (*engine)->Execute(PlanOf({1, 2, 3}));
  const auto second = (*engine)->Execute(PlanOf({1, 2, 3}));
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(first->sampled, second->sampled);
  EXPECT_EQ(first->tokens_per_expert, second->tokens_per_expert);
  EXPECT_EQ(first->num_expert_rows, second->num_expert_rows);
}

TEST(LocalEngineTest, ComputesNothingOfAnInvalidPlan) {
  const auto engine = CreateTiny(TinyGroupOptions(TinyPlacement(1)));
  ASSERT_TRUE(engine.ok()) << engine.status();
  const auto good = (*engine)->Execute(PlanOf({1, 2, 3}));
  const auto bad = (*engine)->Execute(PlanOf({1, 2, 1000}));
  EXPECT_EQ(bad.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(bad.status().message(), HasSubstr("token_ids[2] is 1000"));
  const auto again = (*engine)->Execute(PlanOf({1, 2, 3}));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->sampled, good->sampled);
}

TEST(LocalEngineTest, ExecutesAStepWithoutRows) {
  const auto engine = CreateTiny(TinyGroupOptions(TinyPlacement(1)));
  ASSERT_TRUE(engine.ok()) << engine.status();
  const auto result = (*engine)->Execute({.step_id = 2, .num_tokens_per_rank = {0}});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(result->sampled.empty());
  EXPECT_EQ(result->num_expert_rows, 0);
}

TEST(LocalEngineTest, ARankWithoutTokensServesItsExperts) {
  const auto group = LocalEngineGroup::Create(TinyGroupOptions(TinyPlacement(2)));
  ASSERT_TRUE(group.ok()) << group.status();
  StepPlan busy = PlanOf({1, 2, 3, 4, 5, 6});
  busy.num_tokens_per_rank = {6, 0};
  const StepPlan idle = {.step_id = 1, .num_tokens_per_rank = {6, 0}};
  const auto results = (*group)->Execute(std::vector<StepPlan>{busy, idle});
  ASSERT_TRUE(results.ok()) << results.status();
  EXPECT_EQ((*results)[0].sampled.size(), 1u);
  EXPECT_TRUE((*results)[1].sampled.empty());
  EXPECT_GT((*results)[1].num_expert_rows, 0);
  EXPECT_EQ((*results)[0].num_expert_rows + (*results)[1].num_expert_rows, 2 * 6 * 3);
}

TEST(LocalEngineTest, AGroupBeginsNoStepThatIsInvalidOnOneRank) {
  LocalEngineGroupOptions options = TinyGroupOptions(TinyPlacement(2));
  options.exchange_timeout = absl::Seconds(5);  // were one rank to begin, the group would die
  const auto group = LocalEngineGroup::Create(options);
  ASSERT_TRUE(group.ok()) << group.status();
  StepPlan good = PlanOf({1, 2, 3});
  good.num_tokens_per_rank = {3, 3};
  StepPlan bad = good;
  bad.slices[0].token_ids[2] = 1000;
  StepPlan contradicting = good;
  contradicting.num_tokens_per_rank = {2, 3};
  for (const auto& [plan, message] :
       {std::pair(bad, "token_ids[2] is 1000"), std::pair(contradicting, "num_tokens_per_rank")}) {
    const absl::Status status = (*group)->Execute(std::vector<StepPlan>{good, plan}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(status.message(), HasSubstr(message));
  }
  const auto results = (*group)->Execute(std::vector<StepPlan>{good, good});
  ASSERT_TRUE(results.ok()) << results.status();
  EXPECT_EQ((*results)[0].sampled, (*results)[1].sampled);
}

TEST(LocalEngineTest, NamesTheMissingPeerAndThenRefusesToGoOn) {
  LocalEngineGroupOptions options = TinyGroupOptions(TinyPlacement(2));
  const auto max_bytes =
      MaxExchangeBytesPerRank(ExchangeShapeOf(options.config, options.placement, options.engine));
  ASSERT_TRUE(max_bytes.ok()) << max_bytes.status();
  const auto segment = CreateShmSegment(2, *max_bytes);
  ASSERT_TRUE(segment.ok()) << segment.status();
  const auto engine = LocalEngine::Create(
      options.config, options.placement, options.loader, options.engine, [&](kernels::Backend&) {
        return CreateShmCommunicator(segment->get(), {.rank = 0,
                                                      .num_ranks = 2,
                                                      .max_bytes_per_rank = *max_bytes,
                                                      .timeout = absl::Milliseconds(50)});
      });
  ASSERT_TRUE(engine.ok()) << engine.status();

  StepPlan plan = PlanOf({1, 2});
  plan.num_tokens_per_rank = {2, 0};
  const absl::Status alone = (*engine)->Execute(plan).status();
  EXPECT_TRUE(absl::IsDeadlineExceeded(alone) || absl::IsAborted(alone)) << alone;
  EXPECT_THAT(alone.message(), HasSubstr("1"));
  const absl::Status after = (*engine)->Execute(plan).status();
  EXPECT_EQ(after.code(), absl::StatusCode::kFailedPrecondition) << after;
}

TEST(LocalEngineTest, RefusesOptionsThatDoNotFitTheModel) {
  const auto refused = [](auto change, const std::string& message) {
    LocalEngineGroupOptions options = TinyGroupOptions(TinyPlacement(1));
    change(options);
    const absl::Status status = CreateTiny(options).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(status.message(), HasSubstr(message));
  };
  using O = LocalEngineGroupOptions;
  refused([](O& o) { o.engine.num_blocks = 0; }, "num_blocks is 0");
  refused([](O& o) { o.engine.block_size = 0; }, "block_size is 0");
  refused([](O& o) { o.engine.max_model_len = 257; }, "max_model_len is 257, expected 0 to 256");
  refused([](O& o) { o.engine.num_valid_tokens = 97; }, "num_valid_tokens is 97");
  refused([](O& o) { o.engine.max_tokens_per_step = -1; }, "max_tokens_per_step is -1");
  refused([](O& o) { o.engine.max_sequences_per_step = 0; }, "max_sequences_per_step is 0");
  refused([](O& o) { o.engine.kv_dtype = DType::kF16; }, "kv_dtype is f16");
  refused([](O& o) { o.placement.layers.pop_back(); }, "has 1 layers");
  refused([](O& o) { o.placement = ExpertPlacement::Linear(2, 9, 1); }, "has 9 experts");
  refused([](O& o) { o.placement = TinyPlacement(2); }, "its communicator is rank 0 of 1");
  refused([](O& o) { o.loader.rank = 1; }, "rank is 1");
}

}  // namespace
}  // namespace moed
