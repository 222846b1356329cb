#include "engine/bench/step_work.h"

#include <map>

#include "gtest/gtest.h"

namespace moed {
namespace {

/// 3 layers: two of 8 experts, top-2, width 64, with a shared expert of width 32, and a dense one
/// of width 128; hidden 128, 4 query heads and 2 KV heads of 32.
ModelConfig Config() {
  ModelConfig config;
  config.vocab_size = 1000;
  config.hidden_size = 128;
  config.num_layers = 3;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 32;
  config.num_experts = 8;
  config.top_k = 2;
  config.moe_intermediate_size = 64;
  config.shared_intermediate_size = 32;
  config.dense_intermediate_size = 128;
  config.layer_is_moe = {true, true, false};
  return config;
}

/// Two decode steps of 4 sequences each, on one rank, at contexts of 10 and 11.
TestSample TwoDecodeSteps() {
  return {.load = {.num_decoded_tokens = 8,
                   .num_sampled = 8,
                   .num_working_ranks = 2,
                   .num_sampling_ranks = 2,
                   .num_kv_positions = 4 * 10 + 4 * 11,
                   .num_attention_pairs = 4 * 10 + 4 * 11},
          .num_steps = 2,
          .seconds = 0.02,
          .times = {.attention = 0.006, .attention_kv = 0.002, .experts = 0.008, .head = 0.004},
          .distinct_experts = 5};
}

std::map<std::string, StageWork> Work(const ModelConfig& config, const std::string& dtype) {
  std::map<std::string, StageWork> work;
  const WorkModel model{.config = config, .dtype = *ParseEngineDType(dtype)};
  for (const StageWork& stage : WorkOfStep(model, TwoDecodeSteps())) work[stage.stage] = stage;
  return work;
}

TEST(StepWorkTest, Bf16BytesAreTwoForEachWeightThatIsNeeded) {
  const auto work = Work(Config(), "bf16");
  // QKV [256, 128] and output [128, 128] of 3 layers.
  EXPECT_EQ(work.at("projections").bytes, 3 * 2 * (256 * 128 + 128 * 128));
  // K and V of 2 x 32 for 42 positions a step.
  EXPECT_EQ(work.at("attention").bytes, 3 * 42 * 2 * 64 * 2);
  EXPECT_EQ(work.at("route").bytes, 2 * 2 * 8 * 128);
  // 5 of 8 experts, the shared one, and the dense layer.
  EXPECT_EQ(work.at("experts").bytes, 2 * 2 * 3 * 128 * (5 * 64 + 32) + 2 * 3 * 128 * 128);
  EXPECT_EQ(work.at("head").bytes, 2 * 1000 * 128);
}

TEST(StepWorkTest, OperationsAreTwoForEachProduct) {
  const auto work = Work(Config(), "bf16");
  EXPECT_EQ(work.at("projections").operations, 3 * 4 * 2 * (256 * 128 + 128 * 128));
  // q . k and p . v of 4 x 32 for 42 pairs a step.
  EXPECT_EQ(work.at("attention").operations, 3 * 42 * 4 * 128);
  EXPECT_EQ(work.at("route").operations, 2 * 4 * 2 * 8 * 128);
  EXPECT_EQ(work.at("experts").operations, 4 * 2 * 3 * 128 * (2 * (2 * 64 + 32) + 128));
  EXPECT_EQ(work.at("head").operations, 4 * 2 * 1000 * 128);
}

TEST(StepWorkTest, IntegerFormatsAreReadWithTheirScalesAndTheHeadIsAtLeastInt8) {
  const auto int8 = Work(Config(), "int8");
  EXPECT_EQ(int8.at("projections").bytes, 3 * (256 + 128) * 4 * 34);
  EXPECT_EQ(int8.at("experts").arithmetic, Arithmetic::kInt8);
  const auto int4 = Work(Config(), "int4");
  EXPECT_EQ(int4.at("projections").bytes, 3 * (256 + 128) * 4 * 18);
  EXPECT_EQ(int4.at("head").bytes, 1000 * 4 * 34);
  EXPECT_EQ(int4.at("head").arithmetic, Arithmetic::kInt8);
  EXPECT_EQ(int4.at("route").bytes, 2 * 2 * 8 * 128);
  EXPECT_EQ(int4.at("route").arithmetic, Arithmetic::kBf16);
  EXPECT_EQ(int4.at("attention").bytes, 3 * 42 * 2 * 64 * 2);
}

TEST(StepWorkTest, SharesSayHowMuchOfTheTimeTheMachineWouldNeed) {
  const ModelConfig config = Config();
  const WorkModel model{.config = config, .dtype = *ParseEngineDType("bf16")};
  const double head_bytes = 2 * 1000 * 128;  // 256 kB in 2 ms
  const MachineCeilings ceilings{.num_threads = 1,
                                 .read_bytes_per_s = head_bytes / 0.001,
                                 .f32_ops_per_s = 1,
                                 .bf16_ops_per_s = 4 * head_bytes / 0.0005};
  const std::vector<StageRate> rates = RatesOf(model, {TwoDecodeSteps()}, ceilings);
  ASSERT_EQ(rates.size(), 6u);
  const StageRate& head = rates[4];
  EXPECT_EQ(head.work.stage, "head");
  EXPECT_DOUBLE_EQ(head.ms, 2.0);
  EXPECT_DOUBLE_EQ(head.bytes_per_s(), head_bytes / 0.002);
  EXPECT_DOUBLE_EQ(head.read_share, 0.5);
  EXPECT_DOUBLE_EQ(head.arithmetic_share, 0.25);
  EXPECT_DOUBLE_EQ(head.bound_share, 0.5);
  const StageRate& total = rates[5];
  EXPECT_EQ(total.work.stage, "total");
  EXPECT_DOUBLE_EQ(total.ms, 10.0);
  double bound_ms = 0;
  for (size_t i = 0; i < 5; ++i) bound_ms += rates[i].ms * rates[i].bound_share;
  EXPECT_GT(total.bound_share, head.bound_share * head.ms / total.ms);
  EXPECT_LE(bound_ms, total.ms * total.bound_share + 1e-9);
}

TEST(StepWorkTest, WithoutAnInstructionForATypeTheNextWiderOneCounts) {
  const ModelConfig config = Config();
  const WorkModel model{.config = config, .dtype = *ParseEngineDType("int8")};
  const MachineCeilings ceilings{
      .num_threads = 1, .read_bytes_per_s = 1e30, .f32_ops_per_s = 4 * 2 * 1000 * 128 / 0.001};
  EXPECT_DOUBLE_EQ(RatesOf(model, {TwoDecodeSteps()}, ceilings)[4].arithmetic_share, 0.5);
}

TEST(StepWorkTest, SharesAreOfTheStreamingReadOfTheSamplesTime) {
  const ModelConfig config = Config();
  const WorkModel model{.config = config, .dtype = *ParseEngineDType("bf16")};
  const double head_bytes = 2 * 1000 * 128;
  TestSample sample = TwoDecodeSteps();
  sample.read_bytes_per_s = head_bytes / 0.0015;
  const MachineCeilings ceilings{
      .num_threads = 1, .read_bytes_per_s = head_bytes / 0.001, .bf16_ops_per_s = 1e30};
  EXPECT_DOUBLE_EQ(RatesOf(model, {sample}, ceilings)[4].read_share, 0.75);
}

TEST(StepWorkTest, AProbeReadsAtSomeRateEveryTime) {
  const auto probe = ReadProbe::Create({.num_threads = 2, .num_bytes = 1 << 20});
  ASSERT_TRUE(probe.ok()) << probe.status();
  EXPECT_GT((*probe)->Measure(), 0);
  EXPECT_GT((*probe)->Measure(), 0);
}

TEST(StepWorkTest, MeasuredCeilingsArePositive) {
  const absl::StatusOr<MachineCeilings> ceilings = MeasureCeilings(
      {.num_threads = 2, .num_bytes = 1 << 20, .num_rounds = 1000, .num_passes = 2});
  ASSERT_TRUE(ceilings.ok()) << ceilings.status();
  EXPECT_EQ(ceilings->num_threads, 2);
  EXPECT_GT(ceilings->read_bytes_per_s, 0);
  EXPECT_FALSE(ceilings->read_method.empty());
  EXPECT_GT(ceilings->copy_bytes_per_s, 0);
  EXPECT_GT(ceilings->f32_ops_per_s, 0);
}

}  // namespace
}  // namespace moed
