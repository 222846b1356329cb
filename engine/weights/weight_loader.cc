#include "engine/weights/weight_loader.h"

#include <initializer_list>
#include <optional>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "config/base/checked_math.h"
#include "config/base/status_macros.h"
#include "engine/weights/checkpoint.h"
#include "engine/weights/dummy_tensors.h"
#include "engine/weights/file_tensors.h"
#include "engine/weights/format_rule.h"
#include "engine/weights/tensor_source.h"
#include "engine/weights/weight_map.h"

namespace moed {
namespace {

using kernels::ExpertSource;
using kernels::HostMatrix;

absl::Status CheckPlacement(const ModelConfig& config, const ExpertPlacement& placement,
                            int32_t rank) {
  MOED_RETURN_IF_ERROR(placement.Validate());
  if (placement.num_experts != config.num_experts ||
      static_cast<int64_t>(placement.layers.size()) != config.num_moe_layers()) {
    return absl::InvalidArgumentError(
        absl::StrCat("expert placement: it has ", placement.layers.size(), " layers of ",
                     placement.num_experts, " experts, expected the model's ",
                     config.num_moe_layers(), " layers of ", config.num_experts));
  }
  if (rank >= 0 && rank < placement.num_ranks) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "expert placement: rank ", rank, " is not one of its ", placement.num_ranks, " ranks"));
}

// The experts in the slots of `rank`, in slot order.
std::span<const int32_t> ExpertsOf(const ExpertPlacement::Layer& layer, int32_t rank) {
  const int32_t begin = layer.rank_slot_begin[rank];
  return std::span(layer.slot_to_expert).subspan(begin, layer.rank_slot_begin[rank + 1] - begin);
}

// Drops the experts that `rank` does not hold and puts those it holds into slot order.
ModelTensors PartOfRank(ModelTensors tensors, const ExpertPlacement& placement, int32_t rank) {
  size_t moe_layer = 0;
  for (LayerTensors& layer : tensors.layers) {
    if (!layer.router) continue;
    std::vector<ExpertTensors> held;
    for (const int32_t expert : ExpertsOf(placement.layers[moe_layer++], rank)) {
      held.push_back(layer.experts[expert]);
    }
    layer.experts = std::move(held);
  }
  return tensors;
}

// Moves the matrices of one rank from a source into a backend.
class RankLoader {
 public:
  RankLoader(const WeightLoaderOptions& options, TensorSource& source, kernels::Backend& backend)
      : options_(options), source_(source), backend_(backend) {}

  absl::StatusOr<ModelWeights> Load(const ModelTensors& tensors) {
    ForEachMatrix(tensors,
                  [this](const MatrixRef& ref) { total_bytes_ += source_.SizeBytes(ref); });
    rule_ = {.asked = options_.weight_format, .tied_embedding = !tensors.lm_head};
    MOED_ASSIGN_OR_RETURN(weights_.embedding, LoadLinear({&tensors.embedding, 1}, {}));
    for (const LayerTensors& layer : tensors.layers) {
      MOED_ASSIGN_OR_RETURN(LayerWeights loaded, LoadLayer(layer));
      weights_.layers.push_back(std::move(loaded));
    }
    MOED_ASSIGN_OR_RETURN(weights_.final_norm, LoadVector(tensors.final_norm));
    weights_.lm_head = weights_.embedding;
    if (tensors.lm_head) {
      MOED_ASSIGN_OR_RETURN(weights_.lm_head, LoadLinear({&*tensors.lm_head, 1}, {}));
    }
    MOED_RETURN_IF_ERROR(backend_.Synchronize());
    return std::move(weights_);
  }

 private:
  using Linear = std::unique_ptr<kernels::LinearWeights>;
  using Experts = std::unique_ptr<kernels::ExpertWeights>;

  absl::StatusOr<LayerWeights> LoadLayer(const LayerTensors& layer) {
    LayerWeights weights;
    MOED_ASSIGN_OR_RETURN(weights.input_norm, LoadVector(layer.input_norm));
    MOED_ASSIGN_OR_RETURN(weights.qkv, LoadLinear(layer.qkv, layer.qkv_bias));
    if (layer.q_norm) {
      MOED_ASSIGN_OR_RETURN(weights.q_norm, LoadVector(*layer.q_norm));
      MOED_ASSIGN_OR_RETURN(weights.k_norm, LoadVector(*layer.k_norm));
    }
    MOED_ASSIGN_OR_RETURN(weights.o_proj, LoadLinear({&layer.o_proj, 1}, AsSpan(layer.o_bias)));
    MOED_ASSIGN_OR_RETURN(weights.post_attention_norm, LoadVector(layer.post_attention_norm));
    if (layer.router) {
      MOED_ASSIGN_OR_RETURN(weights.router, LoadLinear(AsSpan(layer.router), {}));
    }
    MOED_ASSIGN_OR_RETURN(weights.experts, LoadExperts(layer.experts));
    MOED_ASSIGN_OR_RETURN(weights.shared, LoadExperts(AsSpan(layer.shared)));
    if (layer.shared_gate) {
      MOED_ASSIGN_OR_RETURN(weights.shared_gate, LoadLinear(AsSpan(layer.shared_gate), {}));
    }
    MOED_ASSIGN_OR_RETURN(weights.dense, LoadExperts(AsSpan(layer.dense)));
    return weights;
  }

  template <typename T>
  static std::span<const T> AsSpan(const std::optional<T>& value) {
    return value ? std::span<const T>(&*value, 1) : std::span<const T>();
  }

  absl::StatusOr<Linear> LoadLinear(std::span<const MatrixRef> refs,
                                    std::span<const MatrixRef> bias_refs) {
    std::vector<HostMatrix> stacked;
    for (const MatrixRef& ref : refs) stacked.push_back(Read(ref));
    std::vector<float> bias;
    for (const MatrixRef& ref : bias_refs) {
      const std::vector<float> part = ToFloat(Read(ref));
      bias.insert(bias.end(), part.begin(), part.end());
    }
    absl::StatusOr<Linear> linear = backend_.LoadLinear(stacked, bias, rule_.Of(refs[0].role));
    MOED_RETURN_IF_ERROR(Finish(refs[0].tensor, linear.status()));
    weights_.size_bytes += (*linear)->size_bytes();
    return linear;
  }

  // Null for no experts.
  absl::StatusOr<Experts> LoadExperts(std::span<const ExpertTensors> experts) {
    if (experts.empty()) return nullptr;
    std::vector<ExpertSource> sources;
    for (const ExpertTensors& expert : experts) {
      sources.push_back({Read(expert.gate), Read(expert.up), Read(expert.down)});
    }
    absl::StatusOr<Experts> loaded = backend_.LoadExperts(sources, rule_.Of(experts[0].gate.role));
    MOED_RETURN_IF_ERROR(Finish(experts[0].gate.tensor, loaded.status()));
    weights_.size_bytes += (*loaded)->size_bytes();
    return loaded;
  }

  absl::StatusOr<kernels::Buffer> LoadVector(const MatrixRef& ref) {
    const std::vector<float> values = ToFloat(Read(ref));
    const auto bytes = static_cast<int64_t>(values.size() * sizeof(float));
    absl::StatusOr<kernels::Buffer> buffer = backend_.Allocate(bytes);
    MOED_RETURN_IF_ERROR(Finish(ref.tensor, buffer.status()));
    backend_.CopyToDevice(buffer->data(), values.data(), bytes);
    weights_.size_bytes += bytes;
    return buffer;
  }

  HostMatrix Read(const MatrixRef& ref) {
    done_bytes_ += source_.SizeBytes(ref);
    return source_.Read(ref);
  }

  // The end of a group of matrices: `status` is what came of it.
  absl::Status Finish(const std::string& tensor, const absl::Status& status) {
    source_.Release();
    if (!status.ok()) {
      return absl::Status(status.code(),
                          absl::StrCat("loading '", tensor, "': ", status.message()));
    }
    if (options_.progress) options_.progress(done_bytes_, total_bytes_);
    if (options_.cancelled && options_.cancelled()) {
      return absl::CancelledError(absl::StrCat("loading weights was cancelled after ", done_bytes_,
                                               " of ", total_bytes_, " bytes"));
    }
    return absl::OkStatus();
  }

  const WeightLoaderOptions& options_;
  TensorSource& source_;
  kernels::Backend& backend_;
  FormatRule rule_;
  ModelWeights weights_;
  int64_t done_bytes_ = 0;
  int64_t total_bytes_ = 0;
};

bool NoneExists(const std::string&) { return false; }

bool IsVector(const MatrixRef& ref) {
  return ref.role == WeightRole::kNorm || ref.role == WeightRole::kBias;
}

struct StoredModel {
  Checkpoint checkpoint;
  ModelTensors tensors;  // all of them are in the checkpoint
};

absl::StatusOr<StoredModel> OpenModel(const ModelConfig& config, const std::string& model_dir) {
  MOED_ASSIGN_OR_RETURN(Checkpoint checkpoint, Checkpoint::Open(model_dir));
  ModelTensors tensors =
      MapTensors(config, [&](const std::string& name) { return checkpoint.Find(name) != nullptr; });
  if (absl::Status status = CheckTensors(tensors, checkpoint); !status.ok()) {
    return absl::Status(status.code(), absl::StrCat("'", model_dir, "': ", status.message()));
  }
  return StoredModel{std::move(checkpoint), std::move(tensors)};
}

}  // namespace

absl::StatusOr<ModelWeights> LoadWeights(const ModelConfig& config,
                                         const ExpertPlacement& placement,
                                         const WeightLoaderOptions& options,
                                         kernels::Backend& backend) {
  MOED_RETURN_IF_ERROR(CheckPlacement(config, placement, options.rank));
  if (options.format == LoadFormat::kDummy) {
    DummyTensors source(config, options.dummy_seed);
    return RankLoader(options, source, backend)
        .Load(PartOfRank(MapTensors(config, NoneExists), placement, options.rank));
  }
  MOED_ASSIGN_OR_RETURN(StoredModel model, OpenModel(config, options.model_dir));
  FileTensors source(model.checkpoint);
  return RankLoader(options, source, backend)
      .Load(PartOfRank(std::move(model.tensors), placement, options.rank));
}

absl::StatusOr<DType> StoredMatrixDType(const ModelConfig& config,
                                        const WeightLoaderOptions& options) {
  if (options.format == LoadFormat::kDummy) return DType::kBF16;
  MOED_ASSIGN_OR_RETURN(const StoredModel model, OpenModel(config, options.model_dir));
  bool all_bf16 = true, all_fp8 = model.tensors.fp8_weights;
  ForEachMatrix(model.tensors, [&](const MatrixRef& ref) {
    const std::optional<DType> dtype = model.checkpoint.Find(ref.tensor)->info->dtype;
    all_bf16 &= IsVector(ref) || dtype == DType::kBF16;
    if (IsProjection(ref.role)) all_fp8 &= dtype == DType::kF8E4M3;
  });
  if (all_fp8) return DType::kF8E4M3;
  return all_bf16 ? DType::kBF16 : DType::kF32;
}

absl::StatusOr<int64_t> WeightBytes(const ModelConfig& config, const ExpertPlacement& placement,
                                    const WeightBytesParams& params) {
  MOED_RETURN_IF_ERROR(CheckPlacement(config, placement, params.rank));
  const ModelTensors tensors = PartOfRank(MapTensors(config, NoneExists), placement, params.rank);
  const FormatRule rule = {.asked = params.format, .tied_embedding = !tensors.lm_head};
  std::optional<uint64_t> total = 0;
  ForEachMatrix(tensors, [&](const MatrixRef& ref) {
    const std::optional<uint64_t> bytes = rule.Bytes(ref, params.stored_dtype);
    if (total) total = bytes ? CheckedAdd(*total, *bytes) : std::nullopt;
  });
  if (total && *total <= static_cast<uint64_t>(INT64_MAX)) return static_cast<int64_t>(*total);
  return absl::InvalidArgumentError(
      absl::StrCat("the weights of rank ", params.rank, " would be more than 2^63 bytes"));
}

}  // namespace moed
