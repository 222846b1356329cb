#include "engine/rpc/conversion.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace moed {
namespace {

using ::testing::HasSubstr;

SampleRequest FullSampleRequest() {
  return {.params = {.temperature = 0.5f,
                     .top_k = 7,
                     .top_p = 0.9f,
                     .min_p = 0.1f,
                     .presence_penalty = -1,
                     .frequency_penalty = 1.5f,
                     .repetition_penalty = 1.25f,
                     .logit_bias = {{3, -2.5f}, {1, 100}},
                     .allowed_token_ids = {5, 4, 6},
                     .seed = ~uint64_t{0},
                     .num_top_logprobs = 0},
          .sequence_index = 63,
          .position = int64_t{1} << 40,
          .token_counts = {{.token_id = 9, .num_in_prompt = 2, .num_in_output = 1}},
          .banned_token_ids = {2}};
}

StepPlan FullPlan() {
  return {.step_id = 12,
          .placement_epoch = 3,
          .num_tokens_per_rank = {3, 0},
          .slices = {{.sequence_id = ~uint64_t{0},
                      .start_position = 16,
                      .token_ids = {1, -1, 2147483647},
                      .block_table = {8, 2},
                      .sample = FullSampleRequest()},
                     {.sequence_id = 2, .token_ids = {1}, .block_table = {0}, .sample = {}}}};
}

EngineConfig FullConfig() {
  return {.model_dir = "/m",
          .model_config_json = "{}",
          .dummy_weights = true,
          .dummy_seed = 42,
          .rank = 1,
          .placement = ExpertPlacement::RoundRobin(3, 5, 2),
          .device = "cuda:1",
          .activation_dtype = DType::kF32,
          .weight_format = kernels::WeightFormat::kInt4,
          .numerics = kernels::Numerics::kFast,
          .kv_dtype = DType::kF32,
          .num_threads = 3,
          .cpus = {4, 5, 6},
          .instruction_set = "avx2",
          .block_size = 32,
          .num_blocks = 99,
          .max_tokens_per_step = 100,
          .max_sequences_per_step = 10,
          .max_model_len = 1000,
          .num_valid_tokens = 500,
          .exchange_timeout = absl::Milliseconds(1500),
          .max_exchange_bytes_per_rank = int64_t{1} << 35,
          .exchange = ExchangeStrategy::kMeasured,
          .nccl_library = "/lib/nccl.so"};
}

TEST(ConversionTest, APlanComesBackAsItWas) {
  EXPECT_EQ(FromProto(ToProto(FullPlan())), FullPlan());
  EXPECT_EQ(FromProto(ToProto(StepPlan{})), StepPlan{});
}

TEST(ConversionTest, AResultComesBackAsItWas) {
  const StepResult result{
      .step_id = 12,
      .sampled = {{.sequence_id = 5,
                   .token_id = 6,
                   .logprob = -0.5f,
                   .top_logprobs = {{.token_id = 6, .logprob = -0.5f}, {7, -3.25f}}}},
      .times = {.attention = 1,
                .attention_kv = 0.5,
                .route = 2,
                .dispatch = 3,
                .dispatch_wait = 4,
                .experts = 5,
                .combine = 6,
                .combine_wait = 7,
                .head = 8,
                .sampling = 9,
                .total = 10},
      .num_expert_rows = 11,
      .dispatch_bytes = int64_t{1} << 40,
      .combine_bytes = 13,
      .tokens_per_expert = {0, 1, 2}};
  EXPECT_EQ(FromProto(ToProto(result)), result);
}

TEST(ConversionTest, AConfigurationComesBackAsItWas) {
  const absl::StatusOr<EngineConfig> config = FromProto(ToProto(FullConfig()));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(*config, FullConfig());
}

TEST(ConversionTest, AnotherProtocolVersionIsRefused) {
  engine::v1::ConfigureRequest request = ToProto(FullConfig());
  request.set_protocol_version(kEngineProtocolVersion + 1);
  const absl::Status status = FromProto(request).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("same build"));
}

TEST(ConversionTest, AnUnknownDtypeIsRefusedByName) {
  engine::v1::ConfigureRequest request = ToProto(FullConfig());
  request.set_kv_dtype("f64");
  const absl::Status status = FromProto(request).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("kv_dtype is \"f64\""));
}

TEST(ConversionTest, EveryWeightFormatComesBackAndAnUnknownOneIsRefusedByName) {
  using kernels::WeightFormat;
  engine::v1::ConfigureRequest request = ToProto(FullConfig());
  for (const WeightFormat format :
       {WeightFormat::kStored, WeightFormat::kInt8, WeightFormat::kInt4}) {
    EngineConfig config = FullConfig();
    config.weight_format = format;
    EXPECT_EQ(FromProto(ToProto(config))->weight_format, format);
  }
  for (const char* name : {"", "int2"}) {
    request.set_weight_format(name);
    const absl::Status status = FromProto(request).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("weight_format is \""));
  }
}

TEST(ConversionTest, ARankOutsideThePlacementIsRefused) {
  engine::v1::ConfigureRequest request = ToProto(FullConfig());
  for (const int32_t rank : {-1, 2}) {
    request.set_rank(rank);
    EXPECT_EQ(FromProto(request).status().code(), absl::StatusCode::kInvalidArgument) << rank;
  }
}

TEST(ConversionTest, APlacementThatMissesAnExpertIsRefused) {
  engine::v1::ConfigureRequest request = ToProto(FullConfig());
  request.mutable_placement()->mutable_layers(1)->set_slot_to_expert(0, 1);
  EXPECT_EQ(FromProto(request).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace moed
