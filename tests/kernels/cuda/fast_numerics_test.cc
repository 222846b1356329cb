/// Fast numerics on the emulated device, whose cuBLAS is tests/cuda_emulation/emulated_cublas.cc.

#include <numeric>

#include "gtest/gtest.h"
#include "kernels/cuda/cuda_backend.h"
#include "tests/cuda_emulation/emulated_cublas.h"
#include "tests/kernels/op_test_util.h"

namespace moed::kernels::cuda {
namespace {

std::unique_ptr<Backend> Emulated(Numerics numerics) {
  auto backend = CreateCudaBackend({.device = "cuda:0", .numerics = numerics});
  EXPECT_TRUE(backend.ok()) << backend.status();
  return *std::move(backend);
}

/// Products that cuBLAS is asked for while `work` runs.
template <typename Work>
int ProductsOf(const Work& work) {
  const int before = cuda_emulation::NumCublasProducts();
  work();
  return cuda_emulation::NumCublasProducts() - before;
}

struct LinearCase {
  int64_t rows = 0;
  bool has_bias = false;
  WeightFormat format = WeightFormat::kStored;
  bool accumulate = false;
};

/// out of both numerics for the same inputs, and how many products of cuBLAS are in the fast one.
int CompareLinear(const LinearCase& c) {
  constexpr int64_t kN = 70, kColumns = 96;
  const HostWeights host(RandomValues(kN * kColumns, 1, DType::kBF16), kColumns, DType::kBF16);
  const HostMatrix matrix = host.matrix();
  const auto bias = RandomValues(kN, 2, DType::kF32);
  const auto x = RandomValues(c.rows * kColumns, 3, DType::kBF16);
  const auto before = RandomValues(c.rows * kN, 4, DType::kF32);
  std::vector<std::vector<float>> out;
  int products = 0;
  for (Numerics numerics : {Numerics::kInvariant, Numerics::kFast}) {
    const auto backend = Emulated(numerics);
    const auto weights = backend->LoadLinear(
        {&matrix, 1}, c.has_bias ? std::span<const float>(bias) : std::span<const float>(),
        c.format);
    EXPECT_TRUE(weights.ok()) << weights.status();
    if (!weights.ok()) return -1;
    const Tensor in(*backend, DType::kBF16, kColumns, x), sum(*backend, DType::kF32, kN, before);
    products = ProductsOf([&] {
      backend->Linear({.x = in.view(),
                       .weights = weights->get(),
                       .out = sum.view(),
                       .accumulate = c.accumulate,
                       .scale = 0.5f});
      out.push_back(sum.values());
    });
    if (numerics == Numerics::kInvariant) {
      EXPECT_EQ(products, 0);
    }
  }
  ExpectClose(out[1], out[0], ToleranceOf(DType::kBF16).f32_output, "fast");
  return products;
}

TEST(FastNumericsTest, ManyRowsAreMultipliedByCublas) {
  EXPECT_EQ(CompareLinear({.rows = 200}), 1);
  EXPECT_EQ(CompareLinear({.rows = 128, .accumulate = true}), 1);
}

TEST(FastNumericsTest, FewRowsBiasesAndPackedWeightsAreNot) {
  EXPECT_EQ(CompareLinear({.rows = 127}), 0);
  EXPECT_EQ(CompareLinear({.rows = 200, .has_bias = true}), 0);
  EXPECT_EQ(CompareLinear({.rows = 200, .format = WeightFormat::kInt8}), 0);
}

TEST(FastNumericsTest, ExpertsAreALoopOfProductsWithIndices) {
  constexpr int64_t kHidden = 64, kWidth = 40, kTokens = 100;
  const std::vector<int32_t> offsets = {0, 150, 150, 300};
  const int64_t rows = offsets.back();
  std::vector<HostWeights> host;
  for (uint32_t i = 0; i < 9; ++i) {
    host.emplace_back(RandomValues(kHidden * kWidth, i, DType::kBF16, 0.2f),
                      i % 3 == 2 ? kWidth : kHidden, DType::kBF16);
  }
  std::vector<ExpertSource> sources;
  for (size_t i = 0; i < 9; i += 3) {
    sources.push_back({host[i].matrix(), host[i + 1].matrix(), host[i + 2].matrix()});
  }
  const auto x = RandomValues(kTokens * kHidden, 20, DType::kBF16);
  std::vector<int32_t> x_row(rows), out_row(rows);
  for (int64_t i = 0; i < rows; ++i) x_row[i] = static_cast<int32_t>(i * 7 % kTokens);
  std::iota(out_row.rbegin(), out_row.rend(), 0);
  for (bool with_indices : {true, false}) {
    std::vector<std::vector<float>> out;
    for (Numerics numerics : {Numerics::kInvariant, Numerics::kFast}) {
      const auto backend = Emulated(numerics);
      const auto experts = backend->LoadExperts(sources, WeightFormat::kStored);
      ASSERT_TRUE(experts.ok()) << experts.status();
      const IntArray x_rows(*backend, x_row), out_rows(*backend, out_row);
      const Tensor tokens(*backend, DType::kBF16, kHidden, x);
      const Tensor gathered(*backend, DType::kBF16, rows, kHidden);
      backend->GatherRows(
          {.src = tokens.view(), .row_index = x_rows.data(), .out = gathered.view()});
      const Tensor mid(*backend, DType::kBF16, rows, kWidth);
      const Tensor down(*backend, DType::kBF16, rows, kHidden);
      const int products = ProductsOf([&] {
        backend->ExpertsGateUp({.x = with_indices ? tokens.view() : gathered.view(),
                                .x_row = with_indices ? x_rows.data() : nullptr,
                                .experts = experts->get(),
                                .expert_offsets = offsets,
                                .out = mid.view()});
        backend->ExpertsDown({.x = mid.view(),
                              .experts = experts->get(),
                              .expert_offsets = offsets,
                              .out_row = with_indices ? out_rows.data() : nullptr,
                              .out = down.view()});
        out.push_back(down.values());
      });
      EXPECT_EQ(products, numerics == Numerics::kFast ? 4 : 0);  // the second expert has no rows
    }
    ExpectClose(out[1], out[0], ToleranceOf(DType::kBF16).activation_output, "fast experts");
  }
}

TEST(FastNumericsTest, AMachineWithoutCublasRefusesThem) {
  cuda_emulation::SetHasCublas(false);
  const absl::Status status =
      CreateCudaBackend({.device = "cuda:0", .numerics = Numerics::kFast}).status();
  cuda_emulation::SetHasCublas(true);
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound) << status;
}

TEST(FastNumericsTest, AFailureOfCublasIsKeptAndNamed) {
  const auto backend = Emulated(Numerics::kFast);
  const HostWeights host(RandomValues(32 * 32, 1, DType::kBF16), 32, DType::kBF16);
  const HostMatrix matrix = host.matrix();
  const auto weights = backend->LoadLinear({&matrix, 1}, {}, WeightFormat::kStored);
  ASSERT_TRUE(weights.ok()) << weights.status();
  const Tensor in(*backend, DType::kBF16, 32, RandomValues(128 * 32, 2, DType::kBF16));
  const Tensor out(*backend, DType::kF32, 128, 32);
  cuda_emulation::FailCublasProducts(true);
  backend->Linear({.x = in.view(), .weights = weights->get(), .out = out.view()});
  cuda_emulation::FailCublasProducts(false);
  const absl::Status status = backend->Synchronize();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_NE(status.message().find("cublasGemmEx on cuda:0"), std::string::npos) << status;
}

}  // namespace
}  // namespace moed::kernels::cuda
