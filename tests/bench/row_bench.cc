#include "absl/strings/str_cat.h"
#include "config/base/dtype.h"
#include "tests/bench/bench_support.h"

/// What is done row by row: norm, embedding, route, combine. Names: op/shape/rows.
namespace moed::bench {
namespace {

using kernels::Buffer;

void RmsNorm(benchmark::State& state, const BenchContext& context, const ModelShape& s,
             int64_t rows) {
  kernels::Backend& backend = *context.backend;
  const Buffer x = ZeroFloats(backend, rows * s.hidden);
  const Buffer weight = ZeroFloats(backend, s.hidden);
  const Buffer out = *backend.Allocate(rows * s.hidden * 2);
  for (auto _ : state) {
    backend.RmsNorm({x.data(), DType::kF32, rows, s.hidden}, weight.as<float>(), 1e-6f,
                    {out.data(), DType::kBF16, rows, s.hidden});
  }
  Report(state, context, {.bytes = 6.0 * static_cast<double>(rows * s.hidden)});
}

void EmbedTokens(benchmark::State& state, const BenchContext& context, const ModelShape& s,
                 int64_t rows) {
  kernels::Backend& backend = *context.backend;
  const std::vector<uint16_t> w = RandomBf16(s.vocab * s.hidden);
  const kernels::HostMatrix matrix = {
      .data = w.data(), .dtype = DType::kBF16, .rows = s.vocab, .cols = s.hidden};
  const auto table = *backend.LoadLinear({&matrix, 1}, {}, kernels::WeightFormat::kStored);
  const Buffer ids = Upload(backend, RandomIndices(rows, s.vocab));
  const Buffer hidden = ZeroFloats(backend, rows * s.hidden);
  for (auto _ : state) {
    backend.EmbedTokens(*table, ids.as<int32_t>(), 1.0f,
                        {hidden.data(), DType::kF32, rows, s.hidden});
  }
  Report(state, context, {.bytes = 6.0 * static_cast<double>(rows * s.hidden)});
}

/// Logits of every row in another order.
Buffer RandomLogits(kernels::Backend& backend, int64_t rows, int64_t num_experts) {
  std::vector<float> logits;
  for (int32_t value : RandomIndices(rows * num_experts, 1 << 16)) {
    logits.push_back(static_cast<float>(value) / (1 << 14));
  }
  Buffer buffer = ZeroFloats(backend, rows * num_experts);
  backend.CopyToDevice(buffer.data(), logits.data(), buffer.size_bytes());
  return buffer;
}

void Route(benchmark::State& state, const BenchContext& context, const ModelShape& s,
           int64_t rows) {
  kernels::Backend& backend = *context.backend;
  const Buffer logits = RandomLogits(backend, rows, s.num_experts);
  const Buffer ids = *backend.Allocate(rows * s.top_k * 4);
  const Buffer weights = ZeroFloats(backend, rows * s.top_k);
  for (auto _ : state) {
    backend.Route({.logits = {logits.data(), DType::kF32, rows, s.num_experts},
                   .top_k = static_cast<int32_t>(s.top_k),
                   .renormalize = true,
                   .topk_ids = ids.as<int32_t>(),
                   .topk_weights = weights.as<float>()});
  }
  Report(state, context, {.bytes = 4.0 * static_cast<double>(rows * s.num_experts)});
}

void Combine(benchmark::State& state, const BenchContext& context, const ModelShape& s,
             int64_t rows) {
  kernels::Backend& backend = *context.backend;
  const int64_t num_outputs = rows * s.top_k;
  const Buffer outputs = RandomActivations(backend, num_outputs * s.hidden);
  const Buffer row_of = Upload(backend, RandomIndices(num_outputs, num_outputs));
  const Buffer weights = ZeroFloats(backend, num_outputs);
  const Buffer hidden = ZeroFloats(backend, rows * s.hidden);
  for (auto _ : state) {
    backend.Combine({.rows = {outputs.data(), DType::kBF16, num_outputs, s.hidden},
                     .row_of = row_of.as<int32_t>(),
                     .topk_weights = weights.as<float>(),
                     .top_k = static_cast<int32_t>(s.top_k),
                     .hidden = {hidden.data(), DType::kF32, rows, s.hidden}});
  }
  Report(state, context,
         {.operations = 2.0 * static_cast<double>(num_outputs * s.hidden),
          .bytes = static_cast<double>(2 * num_outputs * s.hidden + 8 * rows * s.hidden)});
}

}  // namespace

void RegisterRowBenchmarks(const BenchContext& context) {
  for (const auto& [op, run] : {std::pair("rms_norm", &RmsNorm), std::pair("embed", &EmbedTokens),
                                std::pair("route", &Route), std::pair("combine", &Combine)}) {
    for (const ModelShape& shape : kShapes) {
      for (int64_t rows : {1, 16, 32, 512}) {
        Register(absl::StrCat(op, "/", shape.name, "/rows:", rows),
                 [&context, &shape, rows, run = run](benchmark::State& state) {
                   run(state, context, shape, rows);
                 });
      }
    }
  }
}

}  // namespace moed::bench
