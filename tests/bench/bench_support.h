#pragma once

#include <benchmark/benchmark.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/bench/machine_ceilings.h"
#include "kernels/backend.h"

/// What the benchmarks of single kernels have in common. All of them run in one process,
/// kernel_bench, in the order of their registration, on threads pinned as moed-bench pins them.
namespace moed::bench {

/// Sizes of one layer of a model.
struct ModelShape {
  const char* name = nullptr;
  int64_t hidden = 0;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t num_experts = 0;
  int64_t top_k = 0;
  int64_t expert_width = 0;
  int64_t vocab = 0;

  int64_t q_width() const { return num_heads * head_dim; }
  int64_t qkv_width() const { return (num_heads + 2 * num_kv_heads) * head_dim; }
};

inline constexpr ModelShape kShapes[] = {
    {"S", 1024, 16, 8, 64, 32, 8, 512, 49152},     // granite-3.1-1b-a400m
    {"M", 2048, 16, 16, 128, 64, 8, 1024, 50304},  // OLMoE-1B-7B
    {"Qwen3-30B-A3B", 2048, 32, 4, 128, 128, 8, 768, 151936},
    {"Mixtral-8x7B", 4096, 32, 8, 128, 8, 2, 14336, 32000},
};

struct NamedFormat {
  const char* name = nullptr;
  kernels::WeightFormat format = kernels::WeightFormat::kStored;
};

inline constexpr NamedFormat kFormats[] = {{"bf16", kernels::WeightFormat::kStored},
                                           {"int8", kernels::WeightFormat::kInt8},
                                           {"int4", kernels::WeightFormat::kInt4}};

/// An op goes through so many bytes of weights before one comes again: next to nothing of them is
/// in caches then, as in a model.
inline constexpr int64_t kColdBytes = int64_t{512} << 20;

/// The machine, as measured before the benchmarks, and the bf16 backend that all of them use. Owned
/// by main; outlives all of them.
struct BenchContext {
  MachineCeilings ceilings;
  std::unique_ptr<kernels::Backend> backend;
};

/// What an iteration does; shown as rates, and as parts of what the machine does at best.
struct Work {
  double operations = 0;
  double bytes = 0;
  kernels::WeightFormat format = kernels::WeightFormat::kStored;
};
void Report(benchmark::State& state, const BenchContext& context, const Work& work);

/// Bytes of a matrix [rows, cols] as it is read: int8 34 bytes and int4 18 for 32 weights.
double MatrixBytes(int64_t rows, int64_t cols, kernels::WeightFormat format);

/// Bits of bf16 values around +-1.
std::vector<uint16_t> RandomBf16(int64_t n);

/// Random values below `end`.
std::vector<int32_t> RandomIndices(int64_t n, int64_t end);

/// Backend memory of so many values around +-1, or zeros for f32 outputs.
kernels::Buffer RandomActivations(kernels::Backend& backend, int64_t n);
kernels::Buffer ZeroFloats(kernels::Backend& backend, int64_t n);
kernels::Buffer Upload(kernels::Backend& backend, const std::vector<int32_t>& values);

/// Keeps the last thing made, for benchmarks that follow each other with the same weights.
template <typename T>
class LastMade {
 public:
  template <typename Make>
  T& Get(const std::string& key, const Make& make) {
    if (key_ != key) {
      value_.reset();
      value_ = make();
      key_ = key;
    }
    return *value_;
  }

 private:
  std::string key_;
  std::unique_ptr<T> value_;
};

/// Registers a benchmark that measures wall clock; `run` is called with its state.
template <typename Run>
void Register(const std::string& name, Run run) {
  benchmark::RegisterBenchmark(name.c_str(), std::move(run))
      ->UseRealTime()
      ->Unit(benchmark::kMicrosecond);
}

void RegisterExpertBenchmarks(const BenchContext& context);
void RegisterLinearBenchmarks(const BenchContext& context);
void RegisterAttentionBenchmarks(const BenchContext& context);
void RegisterRowBenchmarks(const BenchContext& context);

}  // namespace moed::bench
