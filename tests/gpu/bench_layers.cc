#include <algorithm>
#include <array>

#include "absl/strings/str_cat.h"
#include "config/base/status_macros.h"
#include "engine/api/expert_placement.h"
#include "engine/comm/shm_communicator.h"
#include "engine/moe/moe_layer.h"
#include "tests/gpu/bench_table.h"

/// A whole MoE layer of Qwen3-30B-A3B on one rank: router, top-k, plan, both grouped GEMMs,
/// combine.
namespace moed::gpu_bench {
namespace {

ModelConfig LayerConfig(const Scale& scale) {
  ModelConfig config;
  config.hidden_size = scale.Of(2048, 128);
  config.num_layers = 1;
  config.num_experts = scale.Of(128, 8);
  config.top_k = scale.Of(8, 2);
  config.moe_intermediate_size = scale.Of(768, 64);
  config.norm_topk_prob = true;
  config.layer_is_moe = {true};
  return config;
}

absl::StatusOr<LayerWeights> LoadLayer(kernels::Backend& backend, const ModelConfig& config) {
  const int64_t h = config.hidden_size, i = config.moe_intermediate_size;
  const std::vector<uint16_t> w = RandomBf16(std::max(config.num_experts, i) * h);
  const auto matrix = [&w](int64_t rows, int64_t cols) {
    return kernels::HostMatrix{.data = w.data(), .dtype = DType::kBF16, .rows = rows, .cols = cols};
  };
  LayerWeights weights;
  const std::array<kernels::HostMatrix, 1> router = {matrix(config.num_experts, h)};
  MOED_ASSIGN_OR_RETURN(weights.router,
                        backend.LoadLinear(router, {}, kernels::WeightFormat::kStored));
  const std::vector<kernels::ExpertSource> experts(
      config.num_experts, {.gate = matrix(i, h), .up = matrix(i, h), .down = matrix(h, i)});
  MOED_ASSIGN_OR_RETURN(weights.experts,
                        backend.LoadExperts(experts, kernels::WeightFormat::kStored));
  return weights;
}

/// Experts that have rows, per layer.
double ActiveExperts(const StepResult& result) {
  const auto& counts = result.tokens_per_expert;
  return static_cast<double>(
      std::count_if(counts.begin(), counts.end(), [](int32_t n) { return n > 0; }));
}

absl::Status MeasureTokens(BenchParams& p, const ModelConfig& config, const LayerWeights& weights,
                           int32_t num_tokens) {
  const auto communicator = CreateSingleRankCommunicator();
  const ExpertPlacement placement =
      ExpertPlacement::Linear(1, static_cast<int32_t>(config.num_experts), 1);
  MOED_ASSIGN_OR_RETURN(const auto layer,
                        MoeLayer::Create(p.backend, *communicator, config, placement,
                                         {.max_tokens_per_rank = num_tokens}));
  const int64_t h = config.hidden_size;
  MOED_ASSIGN_OR_RETURN(const kernels::Buffer x, RandomRows(p.backend, num_tokens * h));
  MOED_ASSIGN_OR_RETURN(const kernels::Buffer hidden, p.backend.Allocate(num_tokens * h * 4));
  const std::array<int32_t, 1> counts = {num_tokens};
  const MoeLayerInput input = {
      .weights = &weights,
      .num_tokens_per_rank = counts,
      .x = {.data = x.data(), .dtype = DType::kBF16, .rows = num_tokens, .cols = h},
      .hidden = {.data = hidden.data(), .dtype = DType::kF32, .rows = num_tokens, .cols = h}};
  StepResult result;
  absl::Status status;
  const auto ops = [&] { status.Update(layer->Forward(input, result)); };
  MOED_ASSIGN_OR_RETURN(const double seconds, TimeStep(p, {}, ops));
  MOED_RETURN_IF_ERROR(status);
  layer->FinishStep(num_tokens, result);
  const double rows = static_cast<double>(num_tokens * config.top_k);
  const double expert = 3.0 * static_cast<double>(h * config.moe_intermediate_size);
  p.table.Add({.name = absl::StrCat("MoE layer Qwen3-30B-A3B, tokens ", num_tokens),
               .seconds = seconds,
               .bytes = 2 * ActiveExperts(result) * expert,
               .operations = 2 * rows * expert,
               .bound = num_tokens <= 512 ? Bound::kBytes : Bound::kArithmetic});
  return absl::OkStatus();
}

}  // namespace

absl::Status BenchLayer(BenchParams& p) {
  const ModelConfig config = LayerConfig(p.scale);
  MOED_ASSIGN_OR_RETURN(const LayerWeights weights, LoadLayer(p.backend, config));
  for (int32_t tokens : {1, 8, 32, 64, 256, 4096}) {
    if (p.scale.tiny && tokens > 64) continue;
    MOED_RETURN_IF_ERROR(MeasureTokens(p, config, weights, tokens));
  }
  return absl::OkStatus();
}

}  // namespace moed::gpu_bench
