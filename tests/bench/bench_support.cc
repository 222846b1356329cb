#include "tests/bench/bench_support.h"

#include <random>

#include "engine/weights/format_rule.h"

namespace moed::bench {

void Report(benchmark::State& state, const BenchContext& context, const Work& work) {
  using benchmark::Counter;
  const double n = static_cast<double>(state.iterations());
  const MachineCeilings& most = context.ceilings;
  const bool is_integer = work.format != kernels::WeightFormat::kStored;
  double operations_per_s = is_integer ? most.int8_ops_per_s : most.bf16_ops_per_s;
  if (operations_per_s == 0) operations_per_s = most.f32_ops_per_s;
  if (work.operations > 0) {
    state.counters["Gop/s"] = Counter(n * work.operations / 1e9, Counter::kIsRate);
    state.counters["of_peak"] = Counter(n * work.operations / operations_per_s, Counter::kIsRate);
  }
  state.counters["GB/s"] = Counter(n * work.bytes / 1e9, Counter::kIsRate);
  state.counters["of_read"] = Counter(n * work.bytes / most.read_bytes_per_s, Counter::kIsRate);
}

double MatrixBytes(int64_t rows, int64_t cols, kernels::WeightFormat format) {
  const MatrixRef matrix{.role = WeightRole::kInput, .rows = rows, .cols = cols};
  return static_cast<double>(*FormatRule{.asked = format}.Bytes(matrix, DType::kBF16));
}

std::vector<uint16_t> RandomBf16(int64_t n) {
  std::mt19937 random(1);
  std::vector<uint16_t> bits(n);
  for (uint16_t& b : bits) b = static_cast<uint16_t>(0x3f00u | (random() & 0x80ffu));
  return bits;
}

std::vector<int32_t> RandomIndices(int64_t n, int64_t end) {
  std::mt19937 random(2);
  std::uniform_int_distribution<int32_t> any(0, static_cast<int32_t>(end) - 1);
  std::vector<int32_t> indices(n);
  for (int32_t& index : indices) index = any(random);
  return indices;
}

kernels::Buffer RandomActivations(kernels::Backend& backend, int64_t n) {
  const std::vector<uint16_t> values = RandomBf16(n);
  kernels::Buffer buffer = *backend.Allocate(n * 2);
  backend.CopyToDevice(buffer.data(), values.data(), n * 2);
  return buffer;
}

kernels::Buffer ZeroFloats(kernels::Backend& backend, int64_t n) {
  return *backend.Allocate(n * 4);
}

kernels::Buffer Upload(kernels::Backend& backend, const std::vector<int32_t>& values) {
  const int64_t bytes = static_cast<int64_t>(values.size() * sizeof(int32_t));
  kernels::Buffer buffer = *backend.Allocate(bytes);
  backend.CopyToDevice(buffer.data(), values.data(), bytes);
  return buffer;
}

}  // namespace moed::bench
