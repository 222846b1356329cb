#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace moed {

enum class ModelFamily : uint8_t {
  kMixtral,
  kQwen2Moe,
  kQwen3Moe,
  kOlmoe,
  kGraniteMoe,
  kGraniteMoeShared
};
enum class QkNormKind : uint8_t { kNone, kPerHead, kFull };
enum class RouterScoringKind : uint8_t { kSoftmaxThenTopK, kTopKThenSoftmax };
enum class RopeType : uint8_t { kDefault, kLinear, kLlama3, kYarn };

/// Rotary embedding; formulas in Peng et al. 2023 (yarn) and the transformers library's
/// modeling_rope_utils.
struct RopeConfig {
  RopeType type = RopeType::kDefault;
  double theta = 10000.0;
  double factor = 1.0;
  double low_freq_factor = 1.0;   // llama3
  double high_freq_factor = 4.0;  // llama3
  int64_t original_max_positions = 0;
  double beta_fast = 32.0;        // yarn
  double beta_slow = 1.0;         // yarn
  bool truncate = true;           // yarn
  double attention_factor = 1.0;  // multiplies cos and sin; resolved at parse time

  bool operator==(const RopeConfig&) const = default;
};

/// A model's config.json in one normal form, whatever the family spells it like. Immutable after
/// parsing.
struct ModelConfig {
  ModelFamily family = ModelFamily::kQwen3Moe;
  std::string architecture;  // as written, e.g. "Qwen3MoeForCausalLM"
  std::string model_type;
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t num_layers = 0;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t max_positions = 0;
  double rms_norm_eps = 1e-6;
  bool tie_word_embeddings = false;
  RopeConfig rope;

  bool qkv_bias = false;
  bool o_bias = false;
  QkNormKind qk_norm = QkNormKind::kNone;
  double clip_qkv = 0;         // 0 = off
  double attention_scale = 0;  // multiplies q . k; head_dim^-0.5 unless the family says otherwise
  double embedding_multiplier = 1;
  double residual_multiplier = 1;
  double logits_scaling = 1;  // logits are divided by it

  int64_t num_experts = 0;
  int64_t top_k = 0;
  int64_t moe_intermediate_size = 0;
  bool norm_topk_prob = false;
  RouterScoringKind router_scoring = RouterScoringKind::kSoftmaxThenTopK;
  int64_t shared_intermediate_size = 0;  // 0 = no shared expert
  bool shared_expert_gate = false;
  std::vector<bool> layer_is_moe;       // [num_layers]
  int64_t dense_intermediate_size = 0;  // of the layers that are not MoE

  /// Matrices may be stored as e4m3 with a scale for each block of 128 x 128
  /// (quantization_config).
  bool fp8_weights = false;

  std::vector<int32_t> eos_token_ids;
  std::optional<int32_t> bos_token_id;

  int64_t num_moe_layers() const;
  bool operator==(const ModelConfig&) const = default;
};

/// The sampling defaults of generation_config.json; unset where the file does not say.
struct GenerationDefaults {
  std::optional<double> temperature;  // 0 when do_sample is false
  std::optional<double> top_p;
  std::optional<int64_t> top_k;
  std::optional<double> min_p;
  std::optional<double> repetition_penalty;
  std::vector<int32_t> eos_token_ids;

  bool operator==(const GenerationDefaults&) const = default;
};

/// Parses the text of config.json. INVALID_ARGUMENT names the key, what was seen and what was
/// expected; UNIMPLEMENTED names a family or a feature that would change the mathematics.
absl::StatusOr<ModelConfig> ParseModelConfig(const std::string& json_text);

/// Parses the text of generation_config.json.
absl::StatusOr<GenerationDefaults> ParseGenerationDefaults(const std::string& json_text);

/// Reads DIR/config.json, and merges the eos ids of DIR/generation_config.json when there is one.
absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& model_dir);
absl::StatusOr<GenerationDefaults> LoadGenerationDefaults(const std::string& model_dir);

}  // namespace moed
