#include "config/model_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <string>

namespace moed {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

// The configs of released models, as their files spell them.
json Qwen3Moe30b() {
  return json::parse(R"({
    "architectures": ["Qwen3MoeForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
    "bos_token_id": 151643, "decoder_sparse_step": 1, "eos_token_id": 151645, "head_dim": 128,
    "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 6144,
    "max_position_embeddings": 40960, "max_window_layers": 48, "mlp_only_layers": [],
    "model_type": "qwen3_moe", "moe_intermediate_size": 768, "norm_topk_prob": true,
    "num_attention_heads": 32, "num_experts": 128, "num_experts_per_tok": 8,
    "num_hidden_layers": 48, "num_key_value_heads": 4, "output_router_logits": false,
    "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 1000000.0,
    "router_aux_loss_coef": 0.001, "sliding_window": null, "tie_word_embeddings": false,
    "torch_dtype": "bfloat16", "transformers_version": "4.51.0", "use_cache": true,
    "use_sliding_window": false, "vocab_size": 151936})");
}

json Mixtral8x7b() {
  return json::parse(R"({
    "architectures": ["MixtralForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 1,
    "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02,
    "intermediate_size": 14336, "max_position_embeddings": 32768, "model_type": "mixtral",
    "num_attention_heads": 32, "num_experts_per_tok": 2, "num_hidden_layers": 32,
    "num_key_value_heads": 8, "num_local_experts": 8, "output_router_logits": false,
    "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.02,
    "sliding_window": null, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
    "transformers_version": "4.36.0.dev0", "use_cache": true, "vocab_size": 32000})");
}

json Olmoe1b7b() {
  return json::parse(R"({
    "architectures": ["OlmoeForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
    "clip_qkv": null, "eos_token_id": 50279, "hidden_act": "silu", "hidden_size": 2048,
    "initializer_range": 0.02, "intermediate_size": 1024, "max_position_embeddings": 4096,
    "model_type": "olmoe", "norm_topk_prob": false, "num_attention_heads": 16, "num_experts": 64,
    "num_experts_per_tok": 8, "num_hidden_layers": 16, "num_key_value_heads": 16,
    "output_router_logits": false, "pad_token_id": 1, "rms_norm_eps": 1e-05, "rope_scaling": null,
    "rope_theta": 10000.0, "router_aux_loss_coef": 0.01, "tie_word_embeddings": false,
    "torch_dtype": "bfloat16", "use_cache": true, "vocab_size": 50304})");
}

json Granite1bA400m() {
  return json::parse(R"({
    "architectures": ["GraniteMoeForCausalLM"], "attention_bias": false, "attention_dropout": 0.1,
    "attention_multiplier": 0.015625, "bos_token_id": 0, "embedding_multiplier": 12.0,
    "eos_token_id": 0, "hidden_act": "silu", "hidden_size": 1024, "initializer_range": 0.02,
    "intermediate_size": 512, "logits_scaling": 6.0, "max_position_embeddings": 131072,
    "model_type": "granitemoe", "num_attention_heads": 16, "num_experts_per_tok": 8,
    "num_hidden_layers": 24, "num_key_value_heads": 8, "num_local_experts": 32,
    "pad_token_id": 0, "residual_multiplier": 0.22, "rms_norm_eps": 1e-06, "rope_scaling": null,
    "rope_theta": 1500000.0, "router_aux_loss_coef": 0.0, "tie_word_embeddings": true,
    "torch_dtype": "bfloat16", "use_cache": true, "vocab_size": 49155})");
}

json Qwen15MoeA27b() {
  return json::parse(R"({
    "architectures": ["Qwen2MoeForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643,
    "decoder_sparse_step": 1, "eos_token_id": 151643, "hidden_act": "silu", "hidden_size": 2048,
    "initializer_range": 0.02, "intermediate_size": 5632, "max_position_embeddings": 8192,
    "max_window_layers": 21, "model_type": "qwen2_moe", "moe_intermediate_size": 1408,
    "norm_topk_prob": false, "num_attention_heads": 16, "num_experts": 60,
    "num_experts_per_tok": 4, "num_hidden_layers": 24, "num_key_value_heads": 16,
    "output_router_logits": false, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
    "router_aux_loss_coef": 0.001, "shared_expert_intermediate_size": 5632,
    "sliding_window": 32768, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
    "use_cache": true, "use_sliding_window": false, "vocab_size": 151936})");
}

// The same config as transformers 5 writes it.
json InVersion5(json config) {
  json rope = config.value("rope_scaling", json());
  if (rope.is_null()) rope = {{"rope_type", "default"}};
  rope["rope_theta"] = config["rope_theta"];
  config["rope_parameters"] = rope;
  config["dtype"] = config["torch_dtype"];
  for (const char* key : {"rope_theta", "rope_scaling", "torch_dtype"}) config.erase(key);
  return config;
}

json With(json config, const char* key, json value) {
  config[key] = std::move(value);
  return config;
}

ModelConfig Parsed(const json& config) {
  absl::StatusOr<ModelConfig> parsed = ParseModelConfig(config.dump());
  EXPECT_TRUE(parsed.ok()) << parsed.status();
  return parsed.value_or(ModelConfig());
}

void ExpectRefused(const json& config, absl::StatusCode code, const char* message) {
  const absl::Status status = ParseModelConfig(config.dump()).status();
  EXPECT_EQ(status.code(), code) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(message));
}
void ExpectInvalid(const json& config, const char* message) {
  ExpectRefused(config, absl::StatusCode::kInvalidArgument, message);
}
void ExpectUnimplemented(const json& config, const char* message) {
  ExpectRefused(config, absl::StatusCode::kUnimplemented, message);
}

TEST(ModelConfigTest, ReadsQwen3Moe) {
  const ModelConfig config = Parsed(Qwen3Moe30b());
  EXPECT_EQ(config.family, ModelFamily::kQwen3Moe);
  EXPECT_EQ(config.architecture, "Qwen3MoeForCausalLM");
  EXPECT_EQ(config.model_type, "qwen3_moe");
  EXPECT_EQ(config.vocab_size, 151936);
  EXPECT_EQ(config.hidden_size, 2048);
  EXPECT_EQ(config.num_layers, 48);
  EXPECT_EQ(config.num_moe_layers(), 48);
  EXPECT_EQ(config.num_heads, 32);
  EXPECT_EQ(config.num_kv_heads, 4);
  EXPECT_EQ(config.head_dim, 128);
  EXPECT_EQ(config.max_positions, 40960);
  EXPECT_EQ(config.rms_norm_eps, 1e-6);
  EXPECT_EQ(config.rope, RopeConfig{.theta = 1e6});
  EXPECT_EQ(config.qk_norm, QkNormKind::kPerHead);
  EXPECT_FALSE(config.qkv_bias);
  EXPECT_FALSE(config.o_bias);
  EXPECT_DOUBLE_EQ(config.attention_scale, 1 / std::sqrt(128.0));
  EXPECT_EQ(config.num_experts, 128);
  EXPECT_EQ(config.top_k, 8);
  EXPECT_EQ(config.moe_intermediate_size, 768);
  EXPECT_TRUE(config.norm_topk_prob);
  EXPECT_EQ(config.router_scoring, RouterScoringKind::kSoftmaxThenTopK);
  EXPECT_EQ(config.shared_intermediate_size, 0);
  EXPECT_EQ(config.dense_intermediate_size, 0);
  EXPECT_THAT(config.eos_token_ids, ElementsAre(151645));
  EXPECT_EQ(config.bos_token_id, 151643);
}

TEST(ModelConfigTest, ReadsMixtral) {
  const ModelConfig config = Parsed(Mixtral8x7b());
  EXPECT_EQ(config.family, ModelFamily::kMixtral);
  EXPECT_EQ(config.head_dim, 128);
  EXPECT_EQ(config.num_experts, 8);
  EXPECT_EQ(config.top_k, 2);
  EXPECT_EQ(config.moe_intermediate_size, 14336);
  EXPECT_TRUE(config.norm_topk_prob);
  EXPECT_EQ(config.qk_norm, QkNormKind::kNone);
  EXPECT_EQ(config.rms_norm_eps, 1e-5);
}

TEST(ModelConfigTest, ReadsOlmoe) {
  const ModelConfig config = Parsed(Olmoe1b7b());
  EXPECT_EQ(config.family, ModelFamily::kOlmoe);
  EXPECT_EQ(config.qk_norm, QkNormKind::kFull);
  EXPECT_EQ(config.clip_qkv, 0);
  EXPECT_FALSE(config.norm_topk_prob);
  EXPECT_EQ(config.moe_intermediate_size, 1024);
  EXPECT_FALSE(config.bos_token_id.has_value());
  EXPECT_EQ(Parsed(With(Olmoe1b7b(), "clip_qkv", 8.0)).clip_qkv, 8.0);
}

TEST(ModelConfigTest, ReadsGraniteMoe) {
  const ModelConfig config = Parsed(Granite1bA400m());
  EXPECT_EQ(config.family, ModelFamily::kGraniteMoe);
  EXPECT_EQ(config.embedding_multiplier, 12);
  EXPECT_EQ(config.residual_multiplier, 0.22);
  EXPECT_EQ(config.logits_scaling, 6);
  EXPECT_EQ(config.attention_scale, 0.015625);
  EXPECT_TRUE(config.tie_word_embeddings);
  EXPECT_EQ(config.router_scoring, RouterScoringKind::kTopKThenSoftmax);
  EXPECT_EQ(config.shared_intermediate_size, 0);
}

TEST(ModelConfigTest, ReadsTheSharedExpertOfGraniteMoeShared) {
  json shared = Granite1bA400m();
  shared["architectures"] = {"GraniteMoeSharedForCausalLM"};
  shared["model_type"] = "granitemoeshared";
  shared["shared_intermediate_size"] = 1024;
  EXPECT_EQ(Parsed(shared).shared_intermediate_size, 1024);
  EXPECT_FALSE(Parsed(shared).shared_expert_gate);
  EXPECT_EQ(Parsed(With(shared, "shared_intermediate_size", 0)).shared_intermediate_size, 0);
}

TEST(ModelConfigTest, ReadsQwen2Moe) {
  const ModelConfig config = Parsed(Qwen15MoeA27b());
  EXPECT_EQ(config.family, ModelFamily::kQwen2Moe);
  EXPECT_TRUE(config.qkv_bias);
  EXPECT_FALSE(config.o_bias);
  EXPECT_EQ(config.shared_intermediate_size, 5632);
  EXPECT_TRUE(config.shared_expert_gate);
  EXPECT_FALSE(config.norm_topk_prob);
  EXPECT_FALSE(Parsed(With(Qwen15MoeA27b(), "qkv_bias", false)).qkv_bias);
}

TEST(ModelConfigTest, BothSpellingsOfTheTransformersLibraryMeanTheSame) {
  json linear = With(Mixtral8x7b(), "rope_scaling", {{"type", "linear"}, {"factor", 4.0}});
  json yarn =
      With(Qwen3Moe30b(), "rope_scaling",
           {{"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 32768}});
  for (const json& config : {Qwen3Moe30b(), Mixtral8x7b(), Olmoe1b7b(), Granite1bA400m(),
                             Qwen15MoeA27b(), linear, yarn}) {
    EXPECT_EQ(Parsed(config), Parsed(InVersion5(config))) << config;
  }
}

TEST(ModelConfigTest, AttentionBiasCoversTheOutputProjection) {
  for (const json& config : {Qwen3Moe30b(), Olmoe1b7b(), Granite1bA400m()}) {
    const ModelConfig parsed = Parsed(With(config, "attention_bias", true));
    EXPECT_TRUE(parsed.qkv_bias);
    EXPECT_TRUE(parsed.o_bias);
  }
}

TEST(ModelConfigTest, HeadDimMayBeAbsentNullOrGiven) {
  json config = Qwen3Moe30b();
  EXPECT_EQ(Parsed(config).head_dim, 128);
  config["head_dim"] = nullptr;
  EXPECT_EQ(Parsed(config).head_dim, 64);
  config.erase("head_dim");
  EXPECT_EQ(Parsed(config).head_dim, 64);
}

TEST(ModelConfigTest, KeyValueHeadsDefaultToAllHeads) {
  json config = Olmoe1b7b();
  config["num_key_value_heads"] = nullptr;
  EXPECT_EQ(Parsed(config).num_kv_heads, 16);
}

TEST(ModelConfigTest, SilentConfigsGetTheDefaultsOfTheirFamily) {
  json config = Mixtral8x7b();
  for (const char* key : {"rope_theta", "rms_norm_eps", "tie_word_embeddings", "hidden_act"}) {
    config.erase(key);
  }
  EXPECT_EQ(Parsed(config), Parsed(Mixtral8x7b()));
  json olmoe = Olmoe1b7b();
  olmoe.erase("rope_theta");
  EXPECT_EQ(Parsed(olmoe).rope.theta, 10000);
}

TEST(ModelConfigTest, AliasesOfTheExpertCountAreRead) {
  json config = Qwen3Moe30b();
  config.erase("num_experts");
  config["num_local_experts"] = 128;
  EXPECT_EQ(Parsed(config), Parsed(Qwen3Moe30b()));
  config["num_experts"] = 127;
  ExpectInvalid(config, "key 'num_local_experts': expected the same as another spelling");
}

TEST(ModelConfigTest, TheModelTypeDecidesWithoutArchitectures) {
  json config = Mixtral8x7b();
  config.erase("architectures");
  EXPECT_EQ(Parsed(config), Parsed(Mixtral8x7b()));
}

TEST(ModelConfigTest, SparseStepAndMlpOnlyLayersMakeDenseLayers) {
  json config = With(Qwen3Moe30b(), "num_hidden_layers", 5);
  config["decoder_sparse_step"] = 2;
  EXPECT_THAT(Parsed(config).layer_is_moe, ElementsAre(false, true, false, true, false));
  EXPECT_EQ(Parsed(config).dense_intermediate_size, 6144);
  EXPECT_EQ(Parsed(config).num_moe_layers(), 2);
  config["decoder_sparse_step"] = 1;
  config["mlp_only_layers"] = {0, 3};
  EXPECT_THAT(Parsed(config).layer_is_moe, ElementsAre(false, true, true, false, true));
  config["decoder_sparse_step"] = 7;
  ExpectUnimplemented(config, "at least one layer to have experts");
}

TEST(ModelConfigTest, EosMayBeAListOrNothing) {
  EXPECT_THAT(Parsed(With(Mixtral8x7b(), "eos_token_id", {2, 5})).eos_token_ids, ElementsAre(2, 5));
  EXPECT_THAT(Parsed(With(Mixtral8x7b(), "eos_token_id", nullptr)).eos_token_ids, IsEmpty());
  ExpectInvalid(With(Mixtral8x7b(), "eos_token_id", -1), "key 'eos_token_id'");
}

TEST(ModelConfigTest, ReadsYarn) {
  const json scaling = {{"type", "yarn"},      {"factor", 8.0},          {"beta_fast", 16},
                        {"beta_slow", 2.0},    {"truncate", false},      {"mscale", 1.0},
                        {"mscale_all_dim", 0}, {"rope_theta", 150000.0}, {"finetuned", true}};
  const RopeConfig rope = Parsed(With(Qwen3Moe30b(), "rope_scaling", scaling)).rope;
  EXPECT_EQ(rope.type, RopeType::kYarn);
  EXPECT_EQ(rope.theta, 150000);
  EXPECT_EQ(rope.factor, 8);
  EXPECT_EQ(rope.beta_fast, 16);
  EXPECT_EQ(rope.beta_slow, 2);
  EXPECT_FALSE(rope.truncate);
  EXPECT_EQ(rope.original_max_positions, 40960);
  EXPECT_DOUBLE_EQ(rope.attention_factor, 0.1 * std::log(8.0) + 1);
  json given = scaling;
  given["attention_factor"] = 1.5;
  EXPECT_EQ(Parsed(With(Qwen3Moe30b(), "rope_scaling", given)).rope.attention_factor, 1.5);
}

TEST(ModelConfigTest, YarnWithoutAFactorStretchesToTheMaximum) {
  const json scaling = {{"type", "yarn"}, {"original_max_position_embeddings", 10240}};
  EXPECT_EQ(Parsed(With(Qwen3Moe30b(), "rope_scaling", scaling)).rope.factor, 4);
}

TEST(ModelConfigTest, ReadsLlama3Rope) {
  const json scaling = {{"rope_type", "llama3"},
                        {"factor", 8.0},
                        {"low_freq_factor", 1.0},
                        {"high_freq_factor", 4.0},
                        {"original_max_position_embeddings", 8192}};
  const RopeConfig rope = Parsed(With(Mixtral8x7b(), "rope_scaling", scaling)).rope;
  EXPECT_EQ(rope, (RopeConfig{.type = RopeType::kLlama3,
                              .theta = 1e6,
                              .factor = 8,
                              .low_freq_factor = 1,
                              .high_freq_factor = 4,
                              .original_max_positions = 8192}));
  json bad = scaling;
  bad["high_freq_factor"] = 0.5;
  ExpectInvalid(With(Mixtral8x7b(), "rope_scaling", bad), "rope_scaling.high_freq_factor");
  bad.erase("high_freq_factor");
  ExpectInvalid(With(Mixtral8x7b(), "rope_scaling", bad), "rope_scaling.high_freq_factor");
}

TEST(ModelConfigTest, RopeParametersMayBeAMapByLayerType) {
  json config = InVersion5(Qwen3Moe30b());
  config["rope_parameters"] = {{"full_attention", config["rope_parameters"]}};
  EXPECT_EQ(Parsed(config), Parsed(Qwen3Moe30b()));
}

TEST(ModelConfigTest, RopeThatIsNotKnownIsRefused) {
  ExpectUnimplemented(With(Mixtral8x7b(), "rope_scaling", {{"type", "dynamic"}, {"factor", 2.0}}),
                      "key 'rope_scaling.type': expected default, linear, llama3 or yarn, got "
                      "'dynamic'");
  ExpectUnimplemented(
      With(Mixtral8x7b(), "rope_scaling", {{"type", "default"}, {"mrope_section", {16, 24, 24}}}),
      "rope_scaling.mrope_section");
  ExpectUnimplemented(With(Mixtral8x7b(), "partial_rotary_factor", 0.5),
                      "key 'partial_rotary_factor'");
  json config = InVersion5(Mixtral8x7b());
  config["rope_parameters"]["partial_rotary_factor"] = 0.25;
  ExpectUnimplemented(config, "rope_parameters.partial_rotary_factor");
  ExpectInvalid(With(Mixtral8x7b(), "rope_scaling", {{"type", "linear"}, {"factor", "abc"}}),
                "key 'rope_scaling.factor': expected a number from 1e-06 to 1e+06, got string");
  ExpectInvalid(With(Mixtral8x7b(), "rope_scaling", {{"type", "linear"}}), "rope_scaling.factor");
}

TEST(ModelConfigTest, UnknownFamiliesAreRefusedByName) {
  ExpectUnimplemented(With(Mixtral8x7b(), "architectures", {"DeepseekV3ForCausalLM"}),
                      "key 'architectures': expected one of MixtralForCausalLM, ");
  ExpectUnimplemented(With(Mixtral8x7b(), "model_type", "granitemoehybrid"),
                      "key 'model_type': expected 'mixtral' with MixtralForCausalLM, got string "
                      "\"granitemoehybrid\"");
  ExpectUnimplemented(json::object(), "key 'model_type'");
}

TEST(ModelConfigTest, FeaturesThatChangeTheMathematicsAreRefusedByName) {
  ExpectUnimplemented(With(Mixtral8x7b(), "hidden_act", "gelu"), "key 'hidden_act'");
  ExpectUnimplemented(With(Mixtral8x7b(), "sliding_window", 4096), "key 'sliding_window'");
  ExpectUnimplemented(With(Qwen3Moe30b(), "use_sliding_window", true), "'use_sliding_window'");
  ExpectUnimplemented(With(Qwen3Moe30b(), "layer_types", {"full_attention", "sliding_attention"}),
                      "'layer_types'");
  ExpectUnimplemented(With(Mixtral8x7b(), "quantization_config", {{"quant_method", "awq"}}),
                      "key 'quantization_config.quant_method': expected 'fp8', got string");
  ExpectUnimplemented(With(Mixtral8x7b(), "torch_dtype", "float8_e4m3fn"), "key 'torch_dtype'");
  ExpectUnimplemented(With(Mixtral8x7b(), "clip_qkv", 8.0), "key 'clip_qkv'");
  ExpectUnimplemented(With(Mixtral8x7b(), "logits_scaling", 2.0), "key 'logits_scaling'");
  ExpectUnimplemented(With(Granite1bA400m(), "position_embedding_type", "nope"),
                      "key 'position_embedding_type'");
}

json Fp8() {
  return {{"activation_scheme", "dynamic"},
          {"fmt", "e4m3"},
          {"modules_to_not_convert", {"lm_head", "model.layers.0.mlp.gate"}},
          {"quant_method", "fp8"},
          {"weight_block_size", {128, 128}}};
}

TEST(ModelConfigTest, BlockScaledFp8IsReadAsPublishedModelsSpellIt) {
  EXPECT_FALSE(Parsed(Qwen3Moe30b()).fp8_weights);
  EXPECT_TRUE(Parsed(With(Qwen3Moe30b(), "quantization_config", Fp8())).fp8_weights);
  json deepseek = With(Fp8(), "scale_fmt", "ue8m0");
  deepseek.erase("modules_to_not_convert");
  EXPECT_TRUE(Parsed(With(Qwen3Moe30b(), "quantization_config", deepseek)).fp8_weights);
}

TEST(ModelConfigTest, OtherKindsOfFp8AreRefusedByName) {
  const auto refused = [](const char* key, const json& value, const char* message) {
    ExpectUnimplemented(With(Qwen3Moe30b(), "quantization_config", With(Fp8(), key, value)),
                        message);
  };
  refused("fmt", "e5m2", "key 'quantization_config.fmt': expected 'e4m3'");
  refused("scale_fmt", "e8m3", "key 'quantization_config.scale_fmt': expected 'ue8m0'");
  refused("activation_scheme", "static", "key 'quantization_config.activation_scheme'");
  refused("weight_block_size", {1, 128}, "key 'quantization_config.weight_block_size'");
  refused("weight_block_size", nullptr, "expected [128, 128], got null");
  const json unknown = With(Fp8(), "smooth_factor", 0.5);
  const auto config = ParseModelConfig(With(Qwen3Moe30b(), "quantization_config", unknown).dump());
  EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(config.status().message()), HasSubstr("smooth_factor"));
}

TEST(ModelConfigTest, ASlidingWindowThatNothingReachesIsAccepted) {
  EXPECT_EQ(Parsed(With(Mixtral8x7b(), "sliding_window", 32768)), Parsed(Mixtral8x7b()));
}

TEST(ModelConfigTest, SizesThatDoNotFitTogetherAreRefused) {
  ExpectInvalid(With(Mixtral8x7b(), "num_key_value_heads", 5),
                "key 'num_key_value_heads': expected a divisor of num_attention_heads, 32, got 5");
  ExpectInvalid(With(Mixtral8x7b(), "num_experts_per_tok", 9),
                "key 'num_experts_per_tok': expected at most the number of experts, 8, got 9");
  ExpectInvalid(With(Mixtral8x7b(), "head_dim", 127), "key 'head_dim': expected an even number");
  ExpectInvalid(With(Mixtral8x7b(), "hidden_size", 4097), "a divisor of hidden_size, 4097");
  ExpectInvalid(With(Mixtral8x7b(), "hidden_size", 32), "key 'head_dim'");
}

// A small file must not make the process allocate what so many experts would need.
TEST(ModelConfigTest, TooManyExpertsInAllLayersAreRefused) {
  json config = With(Qwen3Moe30b(), "num_hidden_layers", 1024);
  EXPECT_EQ(Parsed(With(config, "num_experts", 256)).num_experts, 256);
  ExpectInvalid(With(config, "num_experts", 257),
                "key 'num_hidden_layers': expected at most 262144 when multiplied with "
                "num_experts, 257, got 1024");
}

TEST(ModelConfigTest, EverySizeMustBeThereAndInBounds) {
  for (const char* key :
       {"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
        "max_position_embeddings", "num_experts", "num_experts_per_tok", "moe_intermediate_size"}) {
    json config = Qwen3Moe30b();
    const std::string message = std::string("key '") + key + "'";
    for (const json& bad : {json(0), json(-1), json(int64_t{1} << 40), json("4"), json(1.5)}) {
      ExpectInvalid(With(config, key, bad), message.c_str());
    }
    config.erase(key);
    ExpectInvalid(config, message.c_str());
  }
  json dense = With(Qwen3Moe30b(), "decoder_sparse_step", 2);
  dense.erase("intermediate_size");
  ExpectInvalid(dense, "key 'intermediate_size'");
}

}  // namespace
}  // namespace moed
