#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "config/base/check.h"
#include "config/model_config.h"
#include "engine/moe/moe_layer.h"
#include "engine/weights/model_weights.h"
#include "gtest/gtest.h"
#include "kernels/create_backend.h"
#include "tests/engine/comm/rank_threads.h"

namespace moed {

/// Host weights of one MoE layer, all experts, float32.
struct MoeTestLayer {
  std::vector<float> router;                                    // [E, H]
  std::vector<std::vector<float>> gate, up;                     // [E][I, H]
  std::vector<std::vector<float>> down;                         // [E][H, I]
  std::vector<float> shared_gate_proj, shared_up, shared_down;  // [Is, H], [Is, H], [H, Is]
  std::vector<float> shared_gate;                               // [1, H]
};

/// A small model of MoE layers only, with random weights that bf16 holds exactly.
struct MoeTestModel {
  ModelConfig config;
  std::vector<MoeTestLayer> layers;
};

inline uint16_t Bf16Bits(float value) {
  uint32_t bits = std::bit_cast<uint32_t>(value);
  bits += 0x7fff + (bits >> 16 & 1);
  return static_cast<uint16_t>(bits >> 16);
}

inline float RoundToBf16(float value) {
  return std::bit_cast<float>(static_cast<uint32_t>(Bf16Bits(value)) << 16);
}

inline std::vector<float> RandomValues(std::mt19937& rng, int64_t n, float scale) {
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> values(static_cast<size_t>(n));
  for (float& v : values) v = RoundToBf16(normal(rng));
  return values;
}

inline ModelConfig SmallMoeConfig() {
  ModelConfig config;
  config.hidden_size = 40;
  config.num_layers = 2;
  config.num_experts = 10;
  config.top_k = 3;
  config.moe_intermediate_size = 24;
  config.layer_is_moe = {true, true};
  return config;
}

inline MoeTestModel MakeMoeTestModel(const ModelConfig& config, uint32_t seed = 1) {
  std::mt19937 rng(seed);
  const int64_t h = config.hidden_size, i = config.moe_intermediate_size;
  const int64_t is = config.shared_intermediate_size;
  MoeTestModel model{.config = config,
                     .layers = std::vector<MoeTestLayer>(config.layer_is_moe.size())};
  for (MoeTestLayer& layer : model.layers) {
    layer.router = RandomValues(rng, config.num_experts * h, 0.3f);
    for (int64_t e = 0; e < config.num_experts; ++e) {
      layer.gate.push_back(RandomValues(rng, i * h, 0.15f));
      layer.up.push_back(RandomValues(rng, i * h, 0.15f));
      layer.down.push_back(RandomValues(rng, h * i, 0.2f));
    }
    layer.shared_gate_proj = RandomValues(rng, is * h, 0.15f);
    layer.shared_up = RandomValues(rng, is * h, 0.15f);
    layer.shared_down = RandomValues(rng, h * is, 0.2f);
    layer.shared_gate = RandomValues(rng, h, 0.3f);
  }
  return model;
}

inline kernels::HostMatrix Matrix(const std::vector<float>& values, int64_t rows, int64_t cols) {
  MOED_CHECK(static_cast<int64_t>(values.size()) == rows * cols);
  return {.data = values.data(), .dtype = DType::kF32, .rows = rows, .cols = cols};
}

template <typename T>
T ValueOrDie(absl::StatusOr<T> value) {
  if (!value.ok()) CheckFailed(value.status().ToString(), __FILE__, __LINE__);
  return *std::move(value);
}

/// What `rank` holds of `layer`, as the weight loader would prepare it.
inline LayerWeights LoadTestLayer(kernels::Backend& backend, const MoeTestModel& model,
                                  size_t layer, const ExpertPlacement::Layer& placement,
                                  int32_t rank) {
  const ModelConfig& config = model.config;
  const MoeTestLayer& source = model.layers[layer];
  const int64_t h = config.hidden_size, i = config.moe_intermediate_size;
  const int64_t is = config.shared_intermediate_size;
  LayerWeights weights;
  const kernels::HostMatrix router[] = {Matrix(source.router, config.num_experts, h)};
  weights.router = ValueOrDie(backend.LoadLinear(router, {}, kernels::WeightFormat::kStored));
  std::vector<kernels::ExpertSource> experts;
  for (int32_t s = placement.rank_slot_begin[rank]; s < placement.rank_slot_begin[rank + 1]; ++s) {
    const int32_t e = placement.slot_to_expert[s];
    experts.push_back({.gate = Matrix(source.gate[e], i, h),
                       .up = Matrix(source.up[e], i, h),
                       .down = Matrix(source.down[e], h, i)});
  }
  if (!experts.empty())
    weights.experts = ValueOrDie(backend.LoadExperts(experts, kernels::WeightFormat::kStored));
  if (is > 0) {
    const kernels::ExpertSource shared[] = {{.gate = Matrix(source.shared_gate_proj, is, h),
                                             .up = Matrix(source.shared_up, is, h),
                                             .down = Matrix(source.shared_down, h, is)}};
    weights.shared = ValueOrDie(backend.LoadExperts(shared, kernels::WeightFormat::kStored));
  }
  if (config.shared_expert_gate) {
    const kernels::HostMatrix gate[] = {Matrix(source.shared_gate, 1, h)};
    weights.shared_gate = ValueOrDie(backend.LoadLinear(gate, {}, kernels::WeightFormat::kStored));
  }
  return weights;
}

/// One step through all layers of a test model.
struct MoeTestRun {
  const MoeTestModel* model = nullptr;
  ExpertPlacement placement;
  std::vector<int32_t> num_tokens_per_rank;
  DType activation = DType::kF32;
  int64_t segment_bytes_less = 0;  // by how much the segment is too small
  int num_threads = 1;
  ExchangeStrategy exchange = ExchangeStrategy::kAllToAll;
  std::vector<float> x;       // [tokens of all ranks, H], the same for every layer
  std::vector<float> hidden;  // [tokens of all ranks, H] before the step
};

inline MoeTestRun MakeRun(const MoeTestModel& model, const ExpertPlacement& placement,
                          const std::vector<int32_t>& num_tokens_per_rank, DType activation) {
  std::mt19937 rng(99);
  const int64_t tokens =
      std::accumulate(num_tokens_per_rank.begin(), num_tokens_per_rank.end(), int64_t{0});
  MoeTestRun run = {.model = &model,
                    .placement = placement,
                    .num_tokens_per_rank = num_tokens_per_rank,
                    .activation = activation};
  run.x = RandomValues(rng, tokens * model.config.hidden_size, 1.0f);
  run.hidden = RandomValues(rng, tokens * model.config.hidden_size, 1.0f);
  return run;
}

struct MoeTestOutcome {
  std::vector<absl::Status> status;  // [num_ranks]
  std::vector<StepResult> results;   // [num_ranks]
  std::vector<float> hidden;         // [tokens of all ranks, H]
};

inline void ExpectAllOk(const MoeTestOutcome& outcome) {
  for (size_t r = 0; r < outcome.status.size(); ++r) {
    EXPECT_TRUE(outcome.status[r].ok()) << "rank " << r << ": " << outcome.status[r];
  }
}

/// A tensor of host values in memory of the backend, rounded to `dtype`.
inline kernels::Buffer UploadRows(kernels::Backend& backend, std::span<const float> values,
                                  DType dtype) {
  const int64_t bytes = static_cast<int64_t>(values.size() * SizeBytes(dtype));
  kernels::Buffer buffer = ValueOrDie(backend.Allocate(std::max<int64_t>(bytes, 1)));
  if (dtype == DType::kF32) {
    backend.CopyToDevice(buffer.data(), values.data(), bytes);
    return buffer;
  }
  std::vector<uint16_t> bits;
  for (const float v : values) bits.push_back(Bf16Bits(v));
  backend.CopyToDevice(buffer.data(), bits.data(), bytes);
  return buffer;
}

/// The part of one rank; writes its rows of outcome.hidden.
inline absl::Status RunMoeRank(const MoeTestRun& run, Communicator& communicator,
                               MoeTestOutcome& outcome) {
  const int32_t rank = communicator.rank();
  const std::vector<int32_t>& counts = run.num_tokens_per_rank;
  const int64_t h = run.model->config.hidden_size;
  const int64_t begin = std::accumulate(counts.begin(), counts.begin() + rank, int64_t{0}) * h;
  const int64_t size = counts[rank] * h;
  auto backend = ValueOrDie(
      kernels::CreateBackend({.activation_dtype = run.activation, .num_threads = run.num_threads}));
  const MoeOptions options = {
      .max_tokens_per_rank = std::max(1, *std::max_element(counts.begin(), counts.end())),
      .exchange = run.exchange};
  auto layer = MoeLayer::Create(*backend, communicator, run.model->config, run.placement, options);
  if (!layer.ok()) return layer.status();
  kernels::Buffer x = UploadRows(*backend, std::span(run.x).subspan(begin, size), run.activation);
  kernels::Buffer hidden =
      UploadRows(*backend, std::span(run.hidden).subspan(begin, size), DType::kF32);
  for (size_t l = 0; l < run.model->layers.size(); ++l) {
    const LayerWeights weights =
        LoadTestLayer(*backend, *run.model, l, run.placement.layers[l], rank);
    absl::Status status = (*layer)->Forward(
        {.weights = &weights,
         .moe_layer = static_cast<int32_t>(l),
         .layer = static_cast<int32_t>(l),
         .step_id = 5,
         .num_tokens_per_rank = counts,
         .x = {.data = x.data(), .dtype = run.activation, .rows = counts[rank], .cols = h},
         .hidden = {.data = hidden.data(), .dtype = DType::kF32, .rows = counts[rank], .cols = h}},
        outcome.results[rank]);
    if (!status.ok()) return status;
  }
  (*layer)->FinishStep(counts[rank], outcome.results[rank]);
  backend->CopyToHost(outcome.hidden.data() + begin, hidden.data(),
                      size * static_cast<int64_t>(sizeof(float)));
  return backend->Synchronize();
}

/// Wraps the communicator of each rank, or leaves it as it is.
using WrapCommunicator =
    std::function<std::unique_ptr<Communicator>(std::unique_ptr<Communicator>)>;

inline MoeTestOutcome RunMoe(const MoeTestRun& run, const WrapCommunicator& wrap = {}) {
  const auto num_ranks = static_cast<int32_t>(run.num_tokens_per_rank.size());
  const ModelConfig& config = run.model->config;
  std::vector<std::unique_ptr<Communicator>> group;
  if (num_ranks == 1) {
    group.push_back(CreateSingleRankCommunicator());
  } else {
    int32_t most_slots = 0;
    for (const ExpertPlacement::Layer& layer : run.placement.layers) {
      for (int32_t r = 0; r < num_ranks; ++r) {
        most_slots = std::max(most_slots, layer.rank_slot_begin[r + 1] - layer.rank_slot_begin[r]);
      }
    }
    const int64_t bytes = ValueOrDie(MaxExchangeBytesPerRank(
        {.num_ranks = num_ranks,
         .max_tokens_per_rank =
             *std::max_element(run.num_tokens_per_rank.begin(), run.num_tokens_per_rank.end()),
         .hidden_size = config.hidden_size,
         .top_k = static_cast<int32_t>(config.top_k),
         .max_slots_per_rank = most_slots,
         .max_gather_tokens = run.exchange == ExchangeStrategy::kAllToAll ? 0 : kMaxGatherTokens,
         .activation = run.activation}));
    group = MakeShmGroup(num_ranks, bytes - run.segment_bytes_less);
  }
  if (wrap) {
    for (auto& communicator : group) communicator = wrap(std::move(communicator));
  }
  MoeTestOutcome outcome;
  outcome.results.resize(num_ranks);
  outcome.hidden.resize(run.hidden.size());
  outcome.status =
      RunRanks(num_ranks, [&](int32_t rank) { return RunMoeRank(run, *group[rank], outcome); });
  return outcome;
}

}  // namespace moed
