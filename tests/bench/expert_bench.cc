#include "absl/strings/str_cat.h"
#include "config/base/dtype.h"
#include "tests/bench/bench_support.h"

/// The grouped GEMMs of a MoE layer. Names: op/shape/format/rows of each expert. Weights are cold.
namespace moed::bench {
namespace {

using kernels::Buffer;
using kernels::HostMatrix;

struct Layers {
  std::vector<std::unique_ptr<kernels::ExpertWeights>> experts;
  absl::Status status;
};

std::unique_ptr<Layers> LoadLayers(const BenchContext& context, const ModelShape& s,
                                   kernels::WeightFormat format) {
  auto layers = std::make_unique<Layers>();
  const std::vector<uint16_t> w = RandomBf16(s.hidden * s.expert_width);
  const HostMatrix wide = {
      .data = w.data(), .dtype = DType::kBF16, .rows = s.expert_width, .cols = s.hidden};
  const HostMatrix tall = {
      .data = w.data(), .dtype = DType::kBF16, .rows = s.hidden, .cols = s.expert_width};
  const std::vector<kernels::ExpertSource> sources(s.num_experts,
                                                   {.gate = wide, .up = wide, .down = tall});
  int64_t bytes = 0;
  do {
    auto experts = context.backend->LoadExperts(sources, format);
    layers->status = experts.status();
    if (!experts.ok()) break;
    bytes += (*experts)->size_bytes();
    layers->experts.push_back(*std::move(experts));
  } while (bytes < 3 * kColdBytes);  // down is a third of them
  return layers;
}

/// Rows of all experts, and the tokens that they come from.
struct Rows {
  Rows(const ModelShape& s, int64_t rows_per_expert)
      : num_rows(s.num_experts * rows_per_expert),
        num_tokens((num_rows + s.top_k - 1) / s.top_k),
        token_of_row(RandomIndices(num_rows, num_tokens)) {
    for (int64_t e = 0; e <= s.num_experts; ++e) {
      offsets.push_back(static_cast<int32_t>(e * rows_per_expert));
    }
  }

  const int64_t num_rows;
  const int64_t num_tokens;
  const std::vector<int32_t> token_of_row;
  std::vector<int32_t> offsets;
};

struct Case {
  const BenchContext& context;
  const ModelShape& shape;
  kernels::WeightFormat format;
  int64_t rows_per_expert;
};

void GateUp(benchmark::State& state, Layers& layers, const Case& c) {
  const ModelShape& s = c.shape;
  const Rows rows(s, c.rows_per_expert);
  kernels::Backend& backend = *c.context.backend;
  const Buffer x = RandomActivations(backend, rows.num_tokens * s.hidden);
  const Buffer x_row = Upload(backend, rows.token_of_row);
  const Buffer out = *backend.Allocate(rows.num_rows * s.expert_width * 2);
  size_t next = 0;
  for (auto _ : state) {
    backend.ExpertsGateUp({.x = {x.data(), DType::kBF16, rows.num_tokens, s.hidden},
                           .x_row = x_row.as<int32_t>(),
                           .experts = layers.experts[next].get(),
                           .expert_offsets = rows.offsets,
                           .out = {out.data(), DType::kBF16, rows.num_rows, s.expert_width}});
    next = (next + 1) % layers.experts.size();
  }
  const double experts = static_cast<double>(s.num_experts);
  Report(state, c.context,
         {.operations = 4.0 * static_cast<double>(rows.num_rows * s.hidden * s.expert_width),
          .bytes = 2 * experts * MatrixBytes(s.expert_width, s.hidden, c.format),
          .format = c.format});
}

void Down(benchmark::State& state, Layers& layers, const Case& c) {
  const ModelShape& s = c.shape;
  const Rows rows(s, c.rows_per_expert);
  kernels::Backend& backend = *c.context.backend;
  const Buffer x = RandomActivations(backend, rows.num_rows * s.expert_width);
  const Buffer out = *backend.Allocate(rows.num_rows * s.hidden * 2);
  size_t next = 0;
  for (auto _ : state) {
    backend.ExpertsDown({.x = {x.data(), DType::kBF16, rows.num_rows, s.expert_width},
                         .experts = layers.experts[next].get(),
                         .expert_offsets = rows.offsets,
                         .out = {out.data(), DType::kBF16, rows.num_rows, s.hidden}});
    next = (next + 1) % layers.experts.size();
  }
  const double experts = static_cast<double>(s.num_experts);
  Report(state, c.context,
         {.operations = 2.0 * static_cast<double>(rows.num_rows * s.hidden * s.expert_width),
          .bytes = experts * MatrixBytes(s.hidden, s.expert_width, c.format),
          .format = c.format});
}

}  // namespace

void RegisterExpertBenchmarks(const BenchContext& context) {
  const auto last = std::make_shared<LastMade<Layers>>();  // of all of these benchmarks
  for (const ModelShape& shape : kShapes) {
    for (const NamedFormat& format : kFormats) {
      for (const auto& [op, run] : {std::pair("gate_up", &GateUp), std::pair("down", &Down)}) {
        for (int64_t rows : {1, 2, 4, 8, 16, 32, 64, 128}) {
          const Case c{context, shape, format.format, rows};
          const std::string key = absl::StrCat(shape.name, "/", format.name);
          const auto measure = [last, c, key, run = run](benchmark::State& state) {
            Layers& layers =
                last->Get(key, [&c] { return LoadLayers(c.context, c.shape, c.format); });
            if (layers.status.ok()) return run(state, layers, c);
            state.SkipWithError(layers.status.ToString().c_str());
          };
          Register(absl::StrCat(op, "/", key, "/rows:", rows), measure);
        }
      }
    }
  }
}

}  // namespace moed::bench
