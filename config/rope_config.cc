#include "config/rope_config.h"

#include <algorithm>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "config/rope.h"

namespace moed {
namespace {

constexpr NumberRange kThetaRange{1.0, 1e15};
constexpr NumberRange kFactorRange{1e-6, 1e6};
constexpr IntRange kPositionsRange{1, int64_t{1} << 30};

// "finetuned" is in some early yarn configs and means nothing for inference.
constexpr absl::string_view kKnownKeys[] = {
    "type",      "rope_type",       "rope_theta",
    "factor",    "low_freq_factor", "high_freq_factor",
    "beta_fast", "beta_slow",       "attention_factor",
    "mscale",    "mscale_all_dim",  "original_max_position_embeddings",
    "truncate",  "finetuned",       "partial_rotary_factor",
};

void RefusePartialRotary(const JsonReader& json) {
  constexpr absl::string_view kKey = "partial_rotary_factor";
  if (json.NumberOr(kKey, {0, 1}, 1.0) != 1.0) {
    json.Fail(absl::UnimplementedError(
        absl::StrCat(json.Where(kKey), ": only whole heads are rotated here, expected 1, got ",
                     json.Describe(kKey))));
  }
}

RopeType ReadType(const JsonReader& rope) {
  const absl::string_view key = rope.Has("rope_type") ? "rope_type" : "type";
  const std::string name = rope.StringOr(key, "default");
  if (name == "default") return RopeType::kDefault;
  if (name == "linear") return RopeType::kLinear;
  if (name == "llama3") return RopeType::kLlama3;
  if (name == "yarn") return RopeType::kYarn;
  rope.Fail(absl::UnimplementedError(absl::StrCat(
      rope.Where(key), ": expected default, linear, llama3 or yarn, got '", name, "'")));
  return RopeType::kDefault;
}

// The key beside the rope parameters wins over the one within, as in the transformers library.
int64_t ReadOriginalPositions(const JsonReader& json, const JsonReader& rope,
                              int64_t max_positions) {
  constexpr absl::string_view kKey = "original_max_position_embeddings";
  return json.IntOr(kKey, kPositionsRange, rope.IntOr(kKey, kPositionsRange, max_positions));
}

void ReadLlama3(const JsonReader& rope, RopeConfig& config) {
  config.factor = rope.Number("factor", kFactorRange);
  config.low_freq_factor = rope.Number("low_freq_factor", kFactorRange);
  config.high_freq_factor = rope.Number("high_freq_factor", kFactorRange);
  if (config.high_freq_factor < config.low_freq_factor) {
    rope.FailExpected("high_freq_factor",
                      absl::StrCat("at least low_freq_factor, ", config.low_freq_factor));
  }
}

void ReadYarn(const JsonReader& rope, int64_t max_positions, RopeConfig& config) {
  const double ratio =
      static_cast<double>(max_positions) / static_cast<double>(config.original_max_positions);
  config.factor = rope.NumberOr("factor", kFactorRange, ratio);
  config.beta_fast = rope.NumberOr("beta_fast", kFactorRange, 32.0);
  config.beta_slow = rope.NumberOr("beta_slow", kFactorRange, 1.0);
  if (config.beta_fast < config.beta_slow) {
    rope.FailExpected("beta_fast", absl::StrCat("at least beta_slow, ", config.beta_slow));
  }
  config.truncate = rope.BoolOr("truncate", true);
  const double mscale = rope.NumberOr("mscale", {0, 1e3}, 0);
  const double mscale_all_dim = rope.NumberOr("mscale_all_dim", {0, 1e3}, 0);
  config.attention_factor = rope.NumberOr(
      "attention_factor", kFactorRange, YarnAttentionFactor(config.factor, mscale, mscale_all_dim));
  if (config.theta <= 1.0) rope.FailExpected("rope_theta", "more than 1 with yarn");
}

void RefuseUnknownParameters(const JsonReader& rope) {
  for (const std::string& key : rope.Keys()) {
    const bool known =
        std::find(std::begin(kKnownKeys), std::end(kKnownKeys), key) != std::end(kKnownKeys);
    if (known || !rope.Has(key)) continue;
    rope.Fail(absl::UnimplementedError(
        absl::StrCat(rope.Where(key), ": this rotary parameter is not known; it has the value ",
                     rope.Describe(key))));
  }
}

RopeConfig ReadParameters(const JsonReader& json, const JsonReader& rope, RopeConfig config,
                          int64_t max_positions) {
  RefuseUnknownParameters(rope);
  RefusePartialRotary(rope);
  config.theta = rope.NumberOr("rope_theta", kThetaRange, config.theta);
  config.type = ReadType(rope);
  if (config.type == RopeType::kLlama3 || config.type == RopeType::kYarn) {
    config.original_max_positions = ReadOriginalPositions(json, rope, max_positions);
  }
  switch (config.type) {
    case RopeType::kDefault:
      break;
    case RopeType::kLinear:
      config.factor = rope.Number("factor", kFactorRange);
      break;
    case RopeType::kLlama3:
      ReadLlama3(rope, config);
      break;
    case RopeType::kYarn:
      ReadYarn(rope, max_positions, config);
      break;
  }
  return config;
}

}  // namespace

RopeConfig ReadRopeConfig(const JsonReader& json, double default_theta, int64_t max_positions) {
  RopeConfig config;
  config.theta = json.NumberOr("rope_theta", kThetaRange, default_theta);
  RefusePartialRotary(json);
  std::optional<JsonReader> rope = json.Object("rope_scaling");
  if (!rope || rope->Keys().empty()) rope = json.Object("rope_parameters");
  if (rope && rope->Has("full_attention")) rope = rope->Object("full_attention");
  if (!rope) return config;
  return ReadParameters(json, *rope, config, max_positions);
}

}  // namespace moed
