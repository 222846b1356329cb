#include <benchmark/benchmark.h>

#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "config/base/check.h"
#include "kernels/backend.h"
#include "kernels/create_backend.h"
#include "tests/bench/machine_peak.h"

/// The CPU backend's GEMMs in bf16 beside the machine's own limits. Weights are cold: a run goes
/// through more matrices than caches hold, as a model does.
namespace moed::kernels {
namespace {

constexpr int64_t kColdBytes = int64_t{192} << 20;

std::unique_ptr<Backend> MakeBackend(int64_t threads) {
  auto backend = CreateBackend({.num_threads = static_cast<int>(threads)});
  MOED_CHECK(backend.ok());
  return *std::move(backend);
}

/// Bits of bf16 values around +-1.
std::vector<uint16_t> RandomBf16(int64_t n) {
  std::mt19937 random(1);
  std::vector<uint16_t> bits(n);
  for (uint16_t& b : bits) b = static_cast<uint16_t>(0x3f00u | (random() & 0x80ffu));
  return bits;
}

Buffer Activations(Backend& backend, int64_t rows, int64_t cols) {
  const std::vector<uint16_t> x = RandomBf16(rows * cols);
  Buffer buffer = *backend.Allocate(rows * cols * 2);
  backend.CopyToDevice(buffer.data(), x.data(), rows * cols * 2);
  return buffer;
}

void Report(benchmark::State& state, double flops, double bytes) {
  using benchmark::Counter;
  const double n = static_cast<double>(state.iterations());
  state.counters["GFLOP/s"] = Counter(flops * n / 1e9, Counter::kIsRate);
  state.counters["weights_GB/s"] = Counter(bytes * n / 1e9, Counter::kIsRate);
}

void BM_RegisterBf16(benchmark::State& state) {
  int64_t flops = 0;
  for (auto _ : state) flops += bench::RunBf16DotProducts(100000);
  state.counters["GFLOP/s"] =
      benchmark::Counter(static_cast<double>(flops) / 1e9, benchmark::Counter::kIsRate);
}
BENCHMARK(BM_RegisterBf16)->Threads(1)->Threads(2)->UseRealTime();

void BM_StreamingRead(benchmark::State& state) {
  const int64_t bytes = kColdBytes / state.threads();
  const auto backend = MakeBackend(1);
  const Buffer data = *backend->Allocate(bytes);  // of huge pages, as weights are
  for (auto _ : state) benchmark::DoNotOptimize(bench::ReadAll(data.as<char>(), bytes));
  state.SetBytesProcessed(state.iterations() * bytes);
}
BENCHMARK(BM_StreamingRead)->Threads(1)->Threads(2)->UseRealTime();

/// Arguments: rows, out features, in features, threads.
void BM_Linear(benchmark::State& state) {
  const int64_t rows = state.range(0), n = state.range(1), k = state.range(2);
  const auto backend = MakeBackend(state.range(3));
  const std::vector<uint16_t> w = RandomBf16(n * k);
  const HostMatrix matrix = {.data = w.data(), .dtype = DType::kBF16, .rows = n, .cols = k};
  std::vector<std::unique_ptr<LinearWeights>> weights;
  for (int64_t bytes = 0; bytes < kColdBytes; bytes += 2 * n * k) {
    weights.push_back(*backend->LoadLinear({&matrix, 1}, {}, kernels::WeightFormat::kStored));
  }
  const Buffer x = Activations(*backend, rows, k);
  const Buffer out = *backend->Allocate(rows * n * 4);
  size_t next = 0;
  for (auto _ : state) {
    backend->Linear({.x = {x.data(), DType::kBF16, rows, k},
                     .weights = weights[next].get(),
                     .out = {out.data(), DType::kF32, rows, n}});
    next = (next + 1) % weights.size();
  }
  Report(state, 2.0 * static_cast<double>(rows * n * k), 2.0 * static_cast<double>(n * k));
}
BENCHMARK(BM_Linear)
    ->ArgsProduct({{1, 4, 32, 512}, {1024, 2048}, {1024, 2048}, {1, 2}})
    ->Args({1, 49152, 1024, 2})
    ->UseRealTime();

struct ExpertShape {
  int64_t num, hidden, width;
};

std::unique_ptr<ExpertWeights> MakeExperts(Backend& backend, const ExpertShape& s) {
  const std::vector<uint16_t> w = RandomBf16(s.hidden * s.width);
  const HostMatrix wide = {
      .data = w.data(), .dtype = DType::kBF16, .rows = s.width, .cols = s.hidden};
  const HostMatrix tall = {
      .data = w.data(), .dtype = DType::kBF16, .rows = s.hidden, .cols = s.width};
  const std::vector<ExpertSource> sources(s.num, {.gate = wide, .up = wide, .down = tall});
  return *backend.LoadExperts(sources, kernels::WeightFormat::kStored);
}

/// Gate, up and down of all experts. Arguments: rows per expert, experts, hidden, width, threads.
void BM_Experts(benchmark::State& state) {
  const ExpertShape s = {state.range(1), state.range(2), state.range(3)};
  const auto backend = MakeBackend(state.range(4));
  const int64_t rows = state.range(0) * s.num, weight_bytes = 6 * s.num * s.hidden * s.width;
  std::vector<std::unique_ptr<ExpertWeights>> layers;
  for (int64_t bytes = 0; bytes < kColdBytes; bytes += weight_bytes) {
    layers.push_back(MakeExperts(*backend, s));
  }
  std::vector<int32_t> offsets;
  for (int64_t e = 0; e <= s.num; ++e) offsets.push_back(static_cast<int32_t>(e * state.range(0)));
  const Buffer x = Activations(*backend, rows, s.hidden);
  const Buffer mid = *backend->Allocate(rows * s.width * 2);
  const Buffer out = *backend->Allocate(rows * s.hidden * 2);
  size_t next = 0;
  for (auto _ : state) {
    backend->ExpertsGateUp({.x = {x.data(), DType::kBF16, rows, s.hidden},
                            .experts = layers[next].get(),
                            .expert_offsets = offsets,
                            .out = {mid.data(), DType::kBF16, rows, s.width}});
    backend->ExpertsDown({.x = {mid.data(), DType::kBF16, rows, s.width},
                          .experts = layers[next].get(),
                          .expert_offsets = offsets,
                          .out = {out.data(), DType::kBF16, rows, s.hidden}});
    next = (next + 1) % layers.size();
  }
  Report(state, 6.0 * static_cast<double>(rows * s.hidden * s.width),
         static_cast<double>(weight_bytes));
}
BENCHMARK(BM_Experts)
    ->ArgsProduct({{1, 4, 8, 32, 128}, {32}, {1024}, {512}, {1, 2}})
    ->ArgsProduct({{1, 32}, {64}, {2048}, {1024}, {2}})
    ->UseRealTime();

}  // namespace
}  // namespace moed::kernels
