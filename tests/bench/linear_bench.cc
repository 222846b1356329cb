#include "absl/strings/str_cat.h"
#include "config/base/dtype.h"
#include "tests/bench/bench_support.h"

/// Dense matrices of a layer and the head. Names: linear/matrix/shape/format/rows. Weights are
/// cold.
namespace moed::bench {
namespace {

using kernels::Buffer;
using kernels::HostMatrix;

struct Matrix {
  const char* name;
  int64_t out_features;
  int64_t in_features;
};

struct Copies {
  std::vector<std::unique_ptr<kernels::LinearWeights>> weights;
  absl::Status status;
};

std::unique_ptr<Copies> LoadCopies(const BenchContext& context, const Matrix& m,
                                   kernels::WeightFormat format) {
  auto copies = std::make_unique<Copies>();
  const std::vector<uint16_t> w = RandomBf16(m.out_features * m.in_features);
  const HostMatrix matrix = {
      .data = w.data(), .dtype = DType::kBF16, .rows = m.out_features, .cols = m.in_features};
  int64_t bytes = 0;
  do {
    auto weights = context.backend->LoadLinear({&matrix, 1}, {}, format);
    copies->status = weights.status();
    if (!weights.ok()) break;
    bytes += (*weights)->size_bytes();
    copies->weights.push_back(*std::move(weights));
  } while (bytes < kColdBytes);
  return copies;
}

struct Case {
  const BenchContext& context;
  Matrix matrix;
  kernels::WeightFormat format;
  int64_t rows;
};

void Linear(benchmark::State& state, Copies& copies, const Case& c) {
  const auto [name, n, k] = c.matrix;
  kernels::Backend& backend = *c.context.backend;
  const Buffer x = RandomActivations(backend, c.rows * k);
  const Buffer out = ZeroFloats(backend, c.rows * n);
  size_t next = 0;
  for (auto _ : state) {
    backend.Linear({.x = {x.data(), DType::kBF16, c.rows, k},
                    .weights = copies.weights[next].get(),
                    .out = {out.data(), DType::kF32, c.rows, n}});
    next = (next + 1) % copies.weights.size();
  }
  Report(state, c.context,
         {.operations = 2.0 * static_cast<double>(c.rows * n * k),
          .bytes = MatrixBytes(n, k, c.format),
          .format = c.format});
}

}  // namespace

void RegisterLinearBenchmarks(const BenchContext& context) {
  const auto last = std::make_shared<LastMade<Copies>>();  // of all of these benchmarks
  for (const ModelShape& s : kShapes) {
    const Matrix matrices[] = {{"qkv", s.qkv_width(), s.hidden},
                               {"output", s.hidden, s.q_width()},
                               {"router", s.num_experts, s.hidden},
                               {"head", s.vocab, s.hidden}};
    for (const Matrix& matrix : matrices) {
      for (const NamedFormat& format : kFormats) {
        for (int64_t rows : {1, 4, 16, 32, 512}) {
          const Case c{context, matrix, format.format, rows};
          const std::string key = absl::StrCat(matrix.name, "/", s.name, "/", format.name);
          Register(absl::StrCat("linear/", key, "/rows:", rows),
                   [last, c, key](benchmark::State& state) {
                     Copies& copies =
                         last->Get(key, [&c] { return LoadCopies(c.context, c.matrix, c.format); });
                     if (copies.status.ok()) return Linear(state, copies, c);
                     state.SkipWithError(copies.status.ToString().c_str());
                   });
        }
      }
    }
  }
}

}  // namespace moed::bench
