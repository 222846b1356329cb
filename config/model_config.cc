#include "config/model_config.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "config/base/status_macros.h"
#include "config/json_reader.h"
#include "config/quantization_config.h"
#include "config/rope_config.h"
#include "config/text_file.h"

namespace moed {
namespace {

// Bounds far above any model known, low enough that no product of a layer's sizes overflows 64
// bits.
constexpr IntRange kVocabRange{1, int64_t{1} << 24};
constexpr IntRange kHiddenRange{1, int64_t{1} << 17};
constexpr IntRange kIntermediateRange{1, int64_t{1} << 20};
constexpr IntRange kLayersRange{1, 1024};
constexpr IntRange kHeadsRange{1, 4096};
constexpr IntRange kHeadDimRange{2, 1024};
constexpr IntRange kExpertsRange{1, 4096};
// Of all layers: what is known of every expert takes some kilobytes.
constexpr int64_t kMaxLayersTimesExperts = int64_t{1} << 18;
constexpr IntRange kPositionsRange{1, int64_t{1} << 26};
constexpr IntRange kTokenRange{0, std::numeric_limits<int32_t>::max()};
constexpr NumberRange kMultiplierRange{1e-6, 1e6};

struct Family {
  ModelFamily family;
  absl::string_view architecture;
  absl::string_view model_type;
  double default_eps;
  double default_theta;
};

// What the transformers library assumes when config.json is silent.
constexpr Family kFamilies[] = {
    {ModelFamily::kMixtral, "MixtralForCausalLM", "mixtral", 1e-5, 1e6},
    {ModelFamily::kQwen2Moe, "Qwen2MoeForCausalLM", "qwen2_moe", 1e-6, 1e4},
    {ModelFamily::kQwen3Moe, "Qwen3MoeForCausalLM", "qwen3_moe", 1e-6, 1e4},
    {ModelFamily::kOlmoe, "OlmoeForCausalLM", "olmoe", 1e-5, 1e4},
    {ModelFamily::kGraniteMoe, "GraniteMoeForCausalLM", "granitemoe", 1e-6, 1e4},
    {ModelFamily::kGraniteMoeShared, "GraniteMoeSharedForCausalLM", "granitemoeshared", 1e-6, 1e4},
};

bool IsQwen(const ModelConfig& config) {
  return config.family == ModelFamily::kQwen2Moe || config.family == ModelFamily::kQwen3Moe;
}

bool IsGranite(const ModelConfig& config) {
  return config.family == ModelFamily::kGraniteMoe ||
         config.family == ModelFamily::kGraniteMoeShared;
}

void FailUnimplemented(const JsonReader& json, absl::string_view key, absl::string_view expected) {
  json.Fail(absl::UnimplementedError(
      absl::StrCat(json.Where(key), ": expected ", expected, ", got ", json.Describe(key))));
}

std::string KnownArchitectures() {
  std::vector<absl::string_view> names;
  for (const Family& family : kFamilies) names.push_back(family.architecture);
  return absl::StrJoin(names, ", ");
}

absl::StatusOr<Family> FindFamily(const JsonReader& json) {
  const std::vector<std::string> architectures = json.StringList("architectures");
  const std::string model_type = json.StringOr("model_type", "");
  MOED_RETURN_IF_ERROR(json.status());
  for (const Family& family : kFamilies) {
    const bool found = architectures.empty() ? family.model_type == model_type
                                             : family.architecture == architectures[0];
    if (!found) continue;
    if (model_type.empty() || model_type == family.model_type) return family;
    FailUnimplemented(json, "model_type",
                      absl::StrCat("'", family.model_type, "' with ", family.architecture));
    return json.status();
  }
  const absl::string_view key = architectures.empty() ? "model_type" : "architectures";
  FailUnimplemented(json, key, absl::StrCat("one of ", KnownArchitectures()));
  return json.status();
}

// The value of whichever alias is there; two that differ are an error.
int64_t IntOfAliases(const JsonReader& json, std::initializer_list<absl::string_view> aliases,
                     IntRange range) {
  std::optional<int64_t> value;
  for (const absl::string_view alias : aliases) {
    if (!json.Has(alias)) continue;
    const int64_t seen = json.Int(alias, range);
    if (value && *value != seen) {
      json.FailExpected(alias, absl::StrCat("the same as another spelling of it, ", *value));
    }
    value = seen;
  }
  return value ? *value : json.Int(*aliases.begin(), range);
}

void RefuseUnknownDtype(const JsonReader& json) {
  for (const absl::string_view key : {"dtype", "torch_dtype"}) {
    const std::string dtype = json.StringOr(key, "bfloat16");
    if (dtype != "bfloat16" && dtype != "float16" && dtype != "float32") {
      FailUnimplemented(json, key, "bfloat16, float16 or float32");
    }
  }
}

void RefuseSlidingWindow(const JsonReader& json, const ModelConfig& config) {
  if (json.BoolOr("use_sliding_window", false)) {
    FailUnimplemented(json, "use_sliding_window", "false (full attention)");
  }
  // The Qwen families carry an inert sliding_window beside use_sliding_window: false.
  if (!IsQwen(config) && json.Has("sliding_window")) {
    const int64_t window = json.Int("sliding_window", {0});
    if (window < config.max_positions) {
      FailUnimplemented(json, "sliding_window",
                        absl::StrCat("null or at least max_position_embeddings, ",
                                     config.max_positions, " (full attention)"));
    }
  }
  for (const std::string& type : json.StringList("layer_types")) {
    if (type != "full_attention") FailUnimplemented(json, "layer_types", "only full_attention");
  }
}

void RefuseUnknownFeatures(const JsonReader& json, const ModelConfig& config) {
  const std::string activation = json.StringOr("hidden_act", "silu");
  if (activation != "silu" && activation != "swish") FailUnimplemented(json, "hidden_act", "silu");
  if (json.StringOr("position_embedding_type", "rope") != "rope") {
    FailUnimplemented(json, "position_embedding_type", "rope");
  }
  for (const absl::string_view key : {"attn_logit_softcapping", "final_logit_softcapping"}) {
    if (json.Has(key)) FailUnimplemented(json, key, "nothing");
  }
  if (config.family != ModelFamily::kOlmoe && json.Has("clip_qkv")) {
    FailUnimplemented(json, "clip_qkv", "nothing in this family");
  }
  for (const absl::string_view key :
       {"embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling"}) {
    if (!IsGranite(config) && json.Has(key)) FailUnimplemented(json, key, "nothing in this family");
  }
  RefuseSlidingWindow(json, config);
  RefuseUnknownDtype(json);
}

void ReadSizes(const JsonReader& json, ModelConfig& config) {
  config.vocab_size = json.Int("vocab_size", kVocabRange);
  config.hidden_size = json.Int("hidden_size", kHiddenRange);
  config.num_layers = json.Int("num_hidden_layers", kLayersRange);
  config.max_positions = json.Int("max_position_embeddings", kPositionsRange);
  config.tie_word_embeddings = json.BoolOr("tie_word_embeddings", false);
}

void ReadHeads(const JsonReader& json, ModelConfig& config) {
  config.num_heads = json.Int("num_attention_heads", kHeadsRange);
  config.num_kv_heads = json.IntOr("num_key_value_heads", kHeadsRange, config.num_heads);
  if (!json.status().ok()) return;
  if (config.num_heads % config.num_kv_heads != 0) {
    json.FailExpected("num_key_value_heads",
                      absl::StrCat("a divisor of num_attention_heads, ", config.num_heads));
  }
  if (!json.Has("head_dim") && config.hidden_size % config.num_heads != 0) {
    json.FailExpected("num_attention_heads",
                      absl::StrCat("a divisor of hidden_size, ", config.hidden_size));
  }
  config.head_dim = json.IntOr("head_dim", kHeadDimRange, config.hidden_size / config.num_heads);
  if (config.head_dim % 2 != 0 || config.head_dim > kHeadDimRange.max || config.head_dim == 0) {
    json.FailExpected("head_dim", absl::StrCat("an even number from 2 to ", kHeadDimRange.max,
                                               " (hidden_size / num_attention_heads is ",
                                               config.hidden_size / config.num_heads, ")"));
  }
}

void ReadAttention(const JsonReader& json, ModelConfig& config) {
  ReadHeads(json, config);
  config.attention_scale =
      config.head_dim > 0 ? 1.0 / std::sqrt(static_cast<double>(config.head_dim)) : 0;
  switch (config.family) {
    case ModelFamily::kMixtral:
      break;
    case ModelFamily::kQwen2Moe:
      config.qkv_bias = json.BoolOr("qkv_bias", true);
      break;
    case ModelFamily::kQwen3Moe:
      config.qk_norm = QkNormKind::kPerHead;
      break;
    case ModelFamily::kOlmoe:
      config.qk_norm = QkNormKind::kFull;
      config.clip_qkv = json.NumberOr("clip_qkv", kMultiplierRange, 0);
      break;
    case ModelFamily::kGraniteMoe:
    case ModelFamily::kGraniteMoeShared:
      config.attention_scale = json.NumberOr("attention_multiplier", kMultiplierRange, 1);
      break;
  }
  if (config.family != ModelFamily::kMixtral && config.family != ModelFamily::kQwen2Moe) {
    config.qkv_bias = config.o_bias = json.BoolOr("attention_bias", false);
  }
}

void ReadExperts(const JsonReader& json, ModelConfig& config) {
  config.num_experts = IntOfAliases(
      json, {"num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"},
      kExpertsRange);
  if (config.num_layers * config.num_experts > kMaxLayersTimesExperts) {
    json.FailExpected("num_hidden_layers",
                      absl::StrCat("at most ", kMaxLayersTimesExperts,
                                   " when multiplied with num_experts, ", config.num_experts));
  }
  config.top_k = IntOfAliases(json, {"num_experts_per_tok", "moe_k"}, kExpertsRange);
  if (config.top_k > config.num_experts) {
    json.FailExpected("num_experts_per_tok",
                      absl::StrCat("at most the number of experts, ", config.num_experts));
  }
  config.moe_intermediate_size =
      json.Int(IsQwen(config) ? "moe_intermediate_size" : "intermediate_size", kIntermediateRange);
  switch (config.family) {
    case ModelFamily::kMixtral:
      config.norm_topk_prob = true;
      break;
    case ModelFamily::kQwen2Moe:
      config.shared_intermediate_size =
          json.Int("shared_expert_intermediate_size", kIntermediateRange);
      config.shared_expert_gate = true;
      [[fallthrough]];
    case ModelFamily::kQwen3Moe:
    case ModelFamily::kOlmoe:
      config.norm_topk_prob = json.BoolOr("norm_topk_prob", false);
      break;
    case ModelFamily::kGraniteMoeShared:
      config.shared_intermediate_size =
          json.IntOr("shared_intermediate_size", {0, kIntermediateRange.max}, 0);
      [[fallthrough]];
    case ModelFamily::kGraniteMoe:
      config.router_scoring = RouterScoringKind::kTopKThenSoftmax;
      break;
  }
}

// Layer i has experts unless mlp_only_layers lists it or decoder_sparse_step skips it (Qwen only).
void ReadLayers(const JsonReader& json, ModelConfig& config) {
  config.layer_is_moe.assign(config.num_layers, true);
  if (!IsQwen(config)) return;
  const int64_t step = json.IntOr("decoder_sparse_step", {1, kLayersRange.max}, 1);
  const std::vector<int64_t> dense = json.IntList("mlp_only_layers", {0});
  for (int64_t i = 0; i < config.num_layers; ++i) {
    const bool listed = std::find(dense.begin(), dense.end(), i) != dense.end();
    config.layer_is_moe[i] = !listed && (i + 1) % step == 0;
  }
  if (config.num_moe_layers() == 0) {
    FailUnimplemented(json, "decoder_sparse_step", "at least one layer to have experts");
  }
  if (config.num_moe_layers() < config.num_layers) {
    config.dense_intermediate_size = json.Int("intermediate_size", kIntermediateRange);
  }
}

void ReadMultipliers(const JsonReader& json, ModelConfig& config) {
  if (!IsGranite(config)) return;
  config.embedding_multiplier = json.NumberOr("embedding_multiplier", kMultiplierRange, 1);
  config.residual_multiplier = json.NumberOr("residual_multiplier", kMultiplierRange, 1);
  config.logits_scaling = json.NumberOr("logits_scaling", kMultiplierRange, 1);
}

double ReadEps(const JsonReader& json, double fallback) {
  const absl::string_view key = json.Has("rms_norm_eps") ? "rms_norm_eps" : "norm_eps";
  return json.NumberOr(key, {0, 1}, fallback);
}

std::vector<int32_t> ReadTokenIds(const JsonReader& json, absl::string_view key) {
  std::vector<int32_t> ids;
  for (const int64_t id : json.IntOrIntList(key, kTokenRange)) {
    ids.push_back(static_cast<int32_t>(id));
  }
  return ids;
}

void ReadTokens(const JsonReader& json, ModelConfig& config) {
  config.eos_token_ids = ReadTokenIds(json, "eos_token_id");
  if (json.Has("bos_token_id")) {
    config.bos_token_id = static_cast<int32_t>(json.Int("bos_token_id", kTokenRange));
  }
}

std::string PathIn(const std::string& model_dir, absl::string_view file) {
  return absl::StrCat(model_dir, "/", file);
}

}  // namespace

int64_t ModelConfig::num_moe_layers() const {
  return std::count(layer_is_moe.begin(), layer_is_moe.end(), true);
}

absl::StatusOr<ModelConfig> ParseModelConfig(const std::string& json_text) {
  MOED_ASSIGN_OR_RETURN(const JsonReader json, JsonReader::Parse(json_text, "config.json"));
  MOED_ASSIGN_OR_RETURN(const Family family, FindFamily(json));
  ModelConfig config;
  config.family = family.family;
  config.architecture = std::string(family.architecture);
  config.model_type = std::string(family.model_type);
  config.rms_norm_eps = ReadEps(json, family.default_eps);
  ReadSizes(json, config);
  RefuseUnknownFeatures(json, config);
  ReadAttention(json, config);
  ReadExperts(json, config);
  ReadLayers(json, config);
  ReadMultipliers(json, config);
  ReadTokens(json, config);
  config.fp8_weights = ReadFp8Weights(json);
  config.rope =
      ReadRopeConfig(json, family.default_theta, std::max<int64_t>(1, config.max_positions));
  MOED_RETURN_IF_ERROR(json.status());
  return config;
}

absl::StatusOr<GenerationDefaults> ParseGenerationDefaults(const std::string& json_text) {
  MOED_ASSIGN_OR_RETURN(const JsonReader json,
                        JsonReader::Parse(json_text, "generation_config.json"));
  GenerationDefaults defaults;
  const auto number = [&json](absl::string_view key, NumberRange range) {
    return json.Has(key) ? std::optional(json.Number(key, range)) : std::nullopt;
  };
  defaults.temperature = number("temperature", {0, 100});
  if (!json.BoolOr("do_sample", true)) defaults.temperature = 0;
  // As the API bounds them: top_p in (0, 1], min_p in [0, 1), repetition_penalty in (0, 100].
  defaults.top_p = number("top_p", {1e-6, 1});
  defaults.min_p = number("min_p", {0, 0.999999});
  defaults.repetition_penalty = number("repetition_penalty", {1e-3, 100});
  if (json.Has("top_k")) defaults.top_k = json.Int("top_k", kTokenRange);
  defaults.eos_token_ids = ReadTokenIds(json, "eos_token_id");
  MOED_RETURN_IF_ERROR(json.status());
  return defaults;
}

absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& model_dir) {
  MOED_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(PathIn(model_dir, "config.json")));
  MOED_ASSIGN_OR_RETURN(ModelConfig config, ParseModelConfig(text));
  MOED_ASSIGN_OR_RETURN(const GenerationDefaults defaults, LoadGenerationDefaults(model_dir));
  for (const int32_t id : defaults.eos_token_ids) {
    std::vector<int32_t>& ids = config.eos_token_ids;
    if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);
  }
  return config;
}

absl::StatusOr<GenerationDefaults> LoadGenerationDefaults(const std::string& model_dir) {
  const absl::StatusOr<std::string> text =
      ReadTextFile(PathIn(model_dir, "generation_config.json"));
  if (absl::IsNotFound(text.status())) return GenerationDefaults();
  MOED_RETURN_IF_ERROR(text.status());
  return ParseGenerationDefaults(*text);
}

}  // namespace moed
