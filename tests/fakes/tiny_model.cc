#include "tests/fakes/tiny_model.h"

#include <random>

namespace moed {

ModelConfig TinyModelConfig() {
  ModelConfig config;
  config.family = ModelFamily::kQwen3Moe;
  config.architecture = "Qwen3MoeForCausalLM";
  config.model_type = "qwen3_moe";
  config.vocab_size = 96;
  config.hidden_size = 64;
  config.num_layers = 3;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 16;
  config.max_positions = 256;
  config.qk_norm = QkNormKind::kPerHead;
  config.attention_scale = 0.25;
  config.num_experts = 10;
  config.top_k = 3;
  config.moe_intermediate_size = 32;
  config.norm_topk_prob = true;
  config.layer_is_moe = {true, false, true};
  config.dense_intermediate_size = 96;
  config.eos_token_ids = {0};
  return config;
}

ExpertPlacement TinyPlacement(int32_t num_ranks) {
  const ModelConfig config = TinyModelConfig();
  return ExpertPlacement::Linear(static_cast<int32_t>(config.num_moe_layers()),
                                 static_cast<int32_t>(config.num_experts), num_ranks);
}

LocalEngineGroupOptions TinyGroupOptions(const ExpertPlacement& placement) {
  LocalEngineGroupOptions options{.config = TinyModelConfig(), .placement = placement};
  options.loader.format = LoadFormat::kDummy;
  options.loader.dummy_seed = 7;
  options.engine.backend.activation_dtype = DType::kF32;
  options.engine.kv_dtype = DType::kF32;
  options.engine.block_size = 4;
  options.engine.num_blocks = 256;
  options.engine.max_tokens_per_step = 128;
  options.engine.max_sequences_per_step = 32;
  return options;
}

std::vector<int32_t> RandomTokens(int32_t count, int32_t vocab_size, uint64_t seed) {
  std::mt19937_64 rng(seed);
  std::vector<int32_t> tokens;
  // The modulus instead of a distribution: the same tokens with every standard library.
  for (int32_t i = 0; i < count; ++i) {
    tokens.push_back(static_cast<int32_t>(rng() % static_cast<uint64_t>(vocab_size)));
  }
  return tokens;
}

}  // namespace moed
