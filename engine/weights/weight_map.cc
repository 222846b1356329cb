#include "engine/weights/weight_map.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace moed {
namespace {

using Exists = std::function<bool(const std::string&)>;

enum class ExpertLayout : uint8_t {
  kGateUpDown,  // experts.{e}.{gate,up,down}_proj.weight
  kW1W3W2,      // experts.{e}.{w1,w3,w2}.weight
  kFused,       // experts.gate_up_proj [E, 2I, H], experts.down_proj [E, H, I]
  kGranite,     // input_linear.weight [E, 2I, H], output_linear.weight [E, H, I]
};

// How one family of files spells a MoE module.
struct MoeNames {
  std::string module;  // "mlp" or "block_sparse_moe"
  std::string router;  // below the module
  ExpertLayout layout = ExpertLayout::kGateUpDown;
  std::string suffix;  // of fused tensors: "" or ".weight"
};

MoeNames PublishedNames(ModelFamily family) {
  switch (family) {
    case ModelFamily::kMixtral:
      return {"block_sparse_moe", "gate.weight", ExpertLayout::kW1W3W2, ""};
    case ModelFamily::kGraniteMoe:
    case ModelFamily::kGraniteMoeShared:
      return {"block_sparse_moe", "router.layer.weight", ExpertLayout::kGranite, ""};
    case ModelFamily::kQwen2Moe:
    case ModelFamily::kQwen3Moe:
    case ModelFamily::kOlmoe:
      break;
  }
  return {"mlp", "gate.weight", ExpertLayout::kGateUpDown, ""};
}

bool DetectLayout(const std::string& module_path, const Exists& exists, MoeNames& names) {
  struct Sign {
    const char* tensor;
    ExpertLayout layout;
    const char* suffix;
  };
  constexpr Sign kSigns[] = {
      {".experts.0.gate_proj.weight", ExpertLayout::kGateUpDown, ""},
      {".experts.0.w1.weight", ExpertLayout::kW1W3W2, ""},
      {".experts.gate_up_proj", ExpertLayout::kFused, ""},
      {".experts.gate_up_proj.weight", ExpertLayout::kFused, ".weight"},
      {".input_linear.weight", ExpertLayout::kGranite, ""},
  };
  for (const Sign& sign : kSigns) {
    if (!exists(absl::StrCat(module_path, sign.tensor))) continue;
    names.layout = sign.layout;
    names.suffix = sign.suffix;
    return true;
  }
  return false;
}

MoeNames DetectNames(ModelFamily family, const std::string& layer, const Exists& exists) {
  const MoeNames published = PublishedNames(family);
  MoeNames names = published;
  for (const std::string& module :
       {published.module, std::string("mlp"), std::string("block_sparse_moe")}) {
    const std::string path = absl::StrCat(layer, ".", module);
    if (!DetectLayout(path, exists, names)) continue;
    names.module = module;
    for (const char* router : {"gate.weight", "router.layer.weight", "router.weight"}) {
      if (exists(absl::StrCat(path, ".", router))) names.router = router;
    }
    break;
  }
  return names;
}

MatrixRef Matrix(std::string tensor, int64_t rows, int64_t cols,
                 WeightRole role = WeightRole::kInput) {
  return {std::move(tensor), {rows, cols}, role, 0, rows, cols};
}

MatrixRef Vector(std::string tensor, int64_t size, WeightRole role) {
  return {std::move(tensor), {size}, role, 0, 1, size};
}

// Names of a layer's matrices, one builder per layer.
class LayerMapper {
 public:
  LayerMapper(const ModelConfig& config, int64_t index)
      : config_(config), hidden_(config.hidden_size), name_(absl::StrCat("model.layers.", index)) {}

  const std::string& name() const { return name_; }

  void MapAttention(LayerTensors& layer) const {
    const std::string attention = absl::StrCat(name_, ".self_attn.");
    const int64_t q_size = config_.num_heads * config_.head_dim;
    const int64_t kv_size = config_.num_kv_heads * config_.head_dim;
    const std::pair<const char*, int64_t> projections[] = {
        {"q_proj", q_size}, {"k_proj", kv_size}, {"v_proj", kv_size}};
    for (const auto& [projection, size] : projections) {
      const std::string path = absl::StrCat(attention, projection);
      layer.qkv.push_back(Matrix(path + ".weight", size, hidden_));
      if (config_.qkv_bias) {
        layer.qkv_bias.push_back(Vector(path + ".bias", size, WeightRole::kBias));
      }
    }
    layer.o_proj = Matrix(attention + "o_proj.weight", hidden_, q_size, WeightRole::kOutput);
    if (config_.o_bias) {
      layer.o_bias = Vector(attention + "o_proj.bias", hidden_, WeightRole::kBias);
    }
    if (config_.qk_norm == QkNormKind::kNone) return;
    const bool per_head = config_.qk_norm == QkNormKind::kPerHead;
    layer.q_norm = Vector(attention + "q_norm.weight", per_head ? config_.head_dim : q_size,
                          WeightRole::kNorm);
    layer.k_norm = Vector(attention + "k_norm.weight", per_head ? config_.head_dim : kv_size,
                          WeightRole::kNorm);
  }

  void MapNorms(LayerTensors& layer) const {
    layer.input_norm = Vector(name_ + ".input_layernorm.weight", hidden_, WeightRole::kNorm);
    layer.post_attention_norm =
        Vector(name_ + ".post_attention_layernorm.weight", hidden_, WeightRole::kNorm);
  }

  void MapMoe(const MoeNames& names, LayerTensors& layer) const {
    const std::string module = absl::StrCat(name_, ".", names.module);
    layer.router = Matrix(absl::StrCat(module, ".", names.router), config_.num_experts, hidden_,
                          WeightRole::kRouter);
    for (int64_t e = 0; e < config_.num_experts; ++e) {
      layer.experts.push_back(Expert(names, module, e));
    }
    if (config_.shared_intermediate_size > 0) MapShared(module, layer);
  }

  void MapDense(LayerTensors& layer) const {
    layer.dense = Mlp(name_ + ".mlp", config_.dense_intermediate_size);
  }

 private:
  static ExpertTensors Split(const std::string& path, const char* const (&names)[3],
                             int64_t intermediate, int64_t hidden) {
    return {Matrix(absl::StrCat(path, names[0]), intermediate, hidden),
            Matrix(absl::StrCat(path, names[1]), intermediate, hidden),
            Matrix(absl::StrCat(path, names[2]), hidden, intermediate, WeightRole::kOutput)};
  }

  ExpertTensors Mlp(const std::string& path, int64_t intermediate) const {
    constexpr const char* kNames[] = {".gate_proj.weight", ".up_proj.weight", ".down_proj.weight"};
    return Split(path, kNames, intermediate, hidden_);
  }

  // Expert e of [E, 2I, H] and [E, H, I]: the first I rows are gate, the next up.
  ExpertTensors Fused(const std::string& gate_up, const std::string& down, int64_t e) const {
    const int64_t width = config_.moe_intermediate_size;
    const std::vector<int64_t> gate_up_shape = {config_.num_experts, 2 * width, hidden_};
    const std::vector<int64_t> down_shape = {config_.num_experts, hidden_, width};
    return {{gate_up, gate_up_shape, WeightRole::kInput, 2 * e * width, width, hidden_},
            {gate_up, gate_up_shape, WeightRole::kInput, (2 * e + 1) * width, width, hidden_},
            {down, down_shape, WeightRole::kOutput, e * hidden_, hidden_, width}};
  }

  ExpertTensors Expert(const MoeNames& names, const std::string& module, int64_t e) const {
    const std::string one = absl::StrCat(module, ".experts.", e);
    const std::string all = absl::StrCat(module, ".experts.");
    constexpr const char* kW[] = {".w1.weight", ".w3.weight", ".w2.weight"};
    switch (names.layout) {
      case ExpertLayout::kGateUpDown:
        break;
      case ExpertLayout::kW1W3W2:
        return Split(one, kW, config_.moe_intermediate_size, hidden_);
      case ExpertLayout::kFused:
        return Fused(absl::StrCat(all, "gate_up_proj", names.suffix),
                     absl::StrCat(all, "down_proj", names.suffix), e);
      case ExpertLayout::kGranite:
        return Fused(module + ".input_linear.weight", module + ".output_linear.weight", e);
    }
    return Mlp(one, config_.moe_intermediate_size);
  }

  void MapShared(const std::string& module, LayerTensors& layer) const {
    const int64_t width = config_.shared_intermediate_size;
    if (config_.family != ModelFamily::kGraniteMoeShared) {
      layer.shared = Mlp(module + ".shared_expert", width);
    } else {
      const std::string input = name_ + ".shared_mlp.input_linear.weight";
      const std::vector<int64_t> shape = {2 * width, hidden_};
      layer.shared = {
          {input, shape, WeightRole::kInput, 0, width, hidden_},
          {input, shape, WeightRole::kInput, width, width, hidden_},
          Matrix(name_ + ".shared_mlp.output_linear.weight", hidden_, width, WeightRole::kOutput)};
    }
    if (config_.shared_expert_gate) {
      layer.shared_gate =
          Matrix(module + ".shared_expert_gate.weight", 1, hidden_, WeightRole::kRouter);
    }
  }

  const ModelConfig& config_;
  const int64_t hidden_;
  const std::string name_;
};

void VisitExpert(const ExpertTensors& expert, const std::function<void(const MatrixRef&)>& visit) {
  visit(expert.gate);
  visit(expert.up);
  visit(expert.down);
}

void VisitLayer(const LayerTensors& layer, const std::function<void(const MatrixRef&)>& visit) {
  const auto visit_if = [&](const std::optional<MatrixRef>& ref) {
    if (ref) visit(*ref);
  };
  visit(layer.input_norm);
  for (const MatrixRef& ref : layer.qkv) visit(ref);
  for (const MatrixRef& ref : layer.qkv_bias) visit(ref);
  visit_if(layer.q_norm);
  visit_if(layer.k_norm);
  visit(layer.o_proj);
  visit_if(layer.o_bias);
  visit(layer.post_attention_norm);
  visit_if(layer.router);
  for (const ExpertTensors& expert : layer.experts) VisitExpert(expert, visit);
  if (layer.shared) VisitExpert(*layer.shared, visit);
  visit_if(layer.shared_gate);
  if (layer.dense) VisitExpert(*layer.dense, visit);
}

}  // namespace

ModelTensors MapTensors(const ModelConfig& config, const Exists& exists) {
  ModelTensors tensors;
  tensors.fp8_weights = config.fp8_weights;
  tensors.embedding = Matrix("model.embed_tokens.weight", config.vocab_size, config.hidden_size,
                             WeightRole::kEmbedding);
  tensors.final_norm = Vector("model.norm.weight", config.hidden_size, WeightRole::kNorm);
  if (!config.tie_word_embeddings) {
    tensors.lm_head =
        Matrix("lm_head.weight", config.vocab_size, config.hidden_size, WeightRole::kHead);
  }
  for (int64_t i = 0; i < config.num_layers; ++i) {
    const LayerMapper mapper(config, i);
    LayerTensors& layer = tensors.layers.emplace_back();
    mapper.MapNorms(layer);
    mapper.MapAttention(layer);
    if (config.layer_is_moe[i]) {
      mapper.MapMoe(DetectNames(config.family, mapper.name(), exists), layer);
    } else {
      mapper.MapDense(layer);
    }
  }
  return tensors;
}

void ForEachMatrix(const ModelTensors& tensors,
                   const std::function<void(const MatrixRef&)>& visit) {
  visit(tensors.embedding);
  for (const LayerTensors& layer : tensors.layers) VisitLayer(layer, visit);
  visit(tensors.final_norm);
  if (tensors.lm_head) visit(*tensors.lm_head);
}

}  // namespace moed
