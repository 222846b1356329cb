#include <algorithm>
#include <limits>
#include <numeric>

#include "tests/kernels/packed_reference.h"

/// Integer and fp8 weights on CUDA backends, which keep them packed and multiply them with bf16
/// activations: against the product of the values that are kept, within the table of tolerances.
namespace moed::kernels {
namespace {

std::vector<float> Product(const std::vector<float>& x, const std::vector<float>& w, int64_t k) {
  const int64_t rows = static_cast<int64_t>(x.size()) / k, n = static_cast<int64_t>(w.size()) / k;
  std::vector<float> y(rows * n);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < n; ++c) {
      y[r * n + c] = static_cast<float>(
          std::inner_product(x.begin() + r * k, x.begin() + (r + 1) * k, w.begin() + c * k, 0.0));
    }
  }
  return y;
}

std::vector<float> Row(const std::vector<float>& m, int64_t cols, int64_t row) {
  return {m.begin() + row * cols, m.begin() + (row + 1) * cols};
}

struct PackedCase {
  OpConfig config;
  Packing packing;
};
void PrintTo(const PackedCase& c, std::ostream* out) {
  *out << c.config.device << " " << PackingName(c.packing);
}

std::vector<PackedCase> CudaCases() {
  std::vector<PackedCase> cases;
  for (const OpConfig& config : AllConfigs()) {
    for (Packing packing : {Packing::kInt8, Packing::kInt4, Packing::kFp8}) {
      if (config.device != "cpu") cases.push_back({config, packing});
    }
  }
  return cases;
}

class PackedGemmTest : public testing::TestWithParam<PackedCase> {
 protected:
  Packing packing() const { return GetParam().packing; }
  WeightFormat format() const { return FormatOf(packing()); }
  Tolerance tolerance() const { return ToleranceOf(DType::kBF16); }
  PackedSource Source(int64_t rows, int64_t cols, uint32_t seed, float scale = 1.0f) const {
    return PackedSource(
        {.packing = packing(), .rows = rows, .cols = cols, .seed = seed, .scale = scale});
  }

  std::unique_ptr<Backend> backend_ = MakeBackend(GetParam().config);
};

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(PackedGemmTest);
INSTANTIATE_TEST_SUITE_P(Cuda, PackedGemmTest, testing::ValuesIn(CudaCases()),
                         [](const testing::TestParamInfo<PackedCase>& info) {
                           return PackingName(info.param.packing);
                         });

struct Shape {
  int64_t rows, n, k;
};
// Parts of groups, of steps, of scales and of tiles, and every shape of tile.
const Shape kShapes[] = {{1, 1, 1},      {2, 64, 31},  {3, 65, 33},  {4, 40, 128},
                         {16, 130, 200}, {17, 33, 65}, {64, 70, 96}, {65, 129, 64},
                         {130, 20, 257}, {0, 64, 64},  {1, 300, 640}};

TEST_P(PackedGemmTest, LinearMatchesTheProductOfWhatIsKept) {
  for (const Shape& s : kShapes) {
    const auto x = RandomValues(s.rows * s.k, 1, DType::kBF16);
    const PackedSource w = Source(s.n, s.k, 2);
    const HostMatrix matrix = w.matrix();
    const auto weights = backend_->LoadLinear({&matrix, 1}, {}, format());
    ASSERT_TRUE(weights.ok()) << weights.status();
    EXPECT_EQ((*weights)->out_features(), s.n);
    EXPECT_EQ((*weights)->in_features(), s.k);
    const Tensor in(*backend_, DType::kBF16, s.k, x), out(*backend_, DType::kF32, s.rows, s.n);
    backend_->Linear({.x = in.view(s.rows), .weights = weights->get(), .out = out.view()});
    ASSERT_NO_FATAL_FAILURE(ExpectClose(
        out.values(), Product(x, w.values(), s.k), tolerance().f32_output,
        std::to_string(s.rows) + " rows, " + std::to_string(s.n) + " x " + std::to_string(s.k)));
  }
}

TEST_P(PackedGemmTest, StackedSourcesAndTheBiasComeOutSideBySide) {
  const int64_t k = 100, rows = 9, n = 70 + 9;
  const auto x = RandomValues(rows * k, 1, DType::kBF16);
  const PackedSource a = Source(70, k, 129);
  const PackedSource b(
      {.packing = packing(), .rows = 9, .cols = k, .seed = 3, .source = DType::kF32});
  auto w = a.values();
  w.insert(w.end(), b.values().begin(), b.values().end());
  const auto bias = RandomValues(n, 5, DType::kF32),
             before = RandomValues(rows * n, 6, DType::kF32);
  auto expected = Product(x, w, k);
  for (int64_t i = 0; i < rows * n; ++i) expected[i] += bias[i % n];
  const HostMatrix stacked[] = {a.matrix(), b.matrix()};
  const auto weights = backend_->LoadLinear(stacked, bias, format());
  ASSERT_TRUE(weights.ok()) << weights.status();
  const Tensor in(*backend_, DType::kBF16, k, x), sum(*backend_, DType::kF32, n, before);
  const LinearParams params = {.x = in.view(), .weights = weights->get(), .out = sum.view()};
  backend_->Linear({.x = params.x,
                    .weights = params.weights,
                    .out = params.out,
                    .accumulate = true,
                    .scale = 0.22f});
  auto accumulated = before;
  for (int64_t i = 0; i < rows * n; ++i) accumulated[i] += 0.22f * expected[i];
  ExpectClose(sum.values(), accumulated, tolerance().f32_output, "accumulated");
  backend_->Linear(params);
  ExpectClose(sum.values(), expected, tolerance().f32_output, "stored");
}

struct ExpertCase {
  int64_t hidden, width;
  std::vector<int32_t> offsets;
};
const ExpertCase kExpertCases[] = {{96, 40, {0, 5}},
                                   {33, 7, {0, 0, 1, 1, 14, 14}},
                                   {136, 72, {0, 3, 15, 33}},
                                   {64, 200, {0, 13, 14}},
                                   {72, 96, {0, 70, 71, 71, 88}}};

class PackedExperts {
 public:
  PackedExperts(Packing packing, const ExpertCase& c) {
    const float scale = 1.0f / std::sqrt(static_cast<float>(c.hidden));
    for (uint32_t e = 0; e + 1 < c.offsets.size(); ++e) {
      const auto add = [&](int64_t rows, int64_t cols, uint32_t seed, float factor) {
        matrices_.emplace_back(PackedSource::Params{
            .packing = packing, .rows = rows, .cols = cols, .seed = seed, .scale = factor});
      };
      add(c.width, c.hidden, 10 + 3 * e, 2 * scale);
      add(c.width, c.hidden, 11 + 3 * e, scale);
      add(c.hidden, c.width, 12 + 3 * e, scale);
    }
    for (size_t i = 0; i < matrices_.size(); i += 3) {
      sources_.push_back(
          {matrices_[i].matrix(), matrices_[i + 1].matrix(), matrices_[i + 2].matrix()});
    }
  }
  std::span<const ExpertSource> sources() const { return sources_; }
  const std::vector<float>& gate(size_t e) const { return matrices_[3 * e].values(); }
  const std::vector<float>& up(size_t e) const { return matrices_[3 * e + 1].values(); }
  const std::vector<float>& down(size_t e) const { return matrices_[3 * e + 2].values(); }

 private:
  std::vector<PackedSource> matrices_;
  std::vector<ExpertSource> sources_;
};

TEST_P(PackedGemmTest, ExpertsMatchTheProductOfWhatIsKeptWithIndices) {
  for (const ExpertCase& c : kExpertCases) {
    const PackedExperts e(packing(), c);
    const auto weights = backend_->LoadExperts(e.sources(), format());
    ASSERT_TRUE(weights.ok()) << weights.status();
    const int64_t rows = c.offsets.back(), tokens = 9;
    const auto x = RandomValues(tokens * c.hidden, 1, DType::kBF16);
    std::vector<int32_t> x_row(rows), out_row(rows);
    for (int64_t i = 0; i < rows; ++i) x_row[i] = static_cast<int32_t>(i * 5 % tokens);
    std::iota(out_row.rbegin(), out_row.rend(), 0);
    const IntArray x_rows(*backend_, x_row), out_rows(*backend_, out_row);
    const Tensor in(*backend_, DType::kBF16, c.hidden, x);
    const Tensor mid(*backend_, DType::kBF16, rows, c.width);
    const Tensor out(*backend_, DType::kBF16, rows, c.hidden);
    backend_->ExpertsGateUp({.x = in.view(),
                             .x_row = x_rows.data(),
                             .experts = weights->get(),
                             .expert_offsets = c.offsets,
                             .out = mid.view()});
    backend_->ExpertsDown({.x = mid.view(),
                           .experts = weights->get(),
                           .expert_offsets = c.offsets,
                           .out_row = out_rows.data(),
                           .out = out.view()});
    const auto mid_values = mid.values(), out_values = out.values();
    for (int64_t i = 0; i < rows; ++i) {
      const size_t expert = static_cast<size_t>(
          std::upper_bound(c.offsets.begin(), c.offsets.end(), i) - c.offsets.begin() - 1);
      const auto x_values = Row(x, c.hidden, x_row[i]);
      auto expected = Product(x_values, e.gate(expert), c.hidden);
      const auto up = Product(x_values, e.up(expert), c.hidden);
      for (int64_t j = 0; j < c.width; ++j) {
        expected[j] = expected[j] / (1.0f + std::exp(-expected[j])) * up[j];
      }
      const auto mid_row = Row(mid_values, c.width, i);
      ASSERT_NO_FATAL_FAILURE(
          ExpectClose(mid_row, expected, tolerance().activation_output, "gate/up"));
      ASSERT_NO_FATAL_FAILURE(ExpectClose(Row(out_values, c.hidden, out_row[i]),
                                          Product(mid_row, e.down(expert), c.width),
                                          tolerance().activation_output, "down"));
    }
  }
}

TEST_P(PackedGemmTest, ARowHasTheSameBitsInEveryCompany) {
  const int64_t n = 100, k = 160;
  const PackedSource w = Source(n, k, 2);
  const HostMatrix matrix = w.matrix();
  const auto weights = backend_->LoadLinear({&matrix, 1}, {}, format());
  ASSERT_TRUE(weights.ok()) << weights.status();
  const auto x = RandomValues(130 * k, 1, DType::kBF16);
  std::vector<uint8_t> alone;
  for (int64_t rows : {1, 2, 16, 17, 64, 65, 130}) {
    const std::vector<float> batch(x.end() - rows * k, x.end());
    const Tensor in(*backend_, DType::kBF16, k, batch), out(*backend_, DType::kF32, rows, n);
    backend_->Linear({.x = in.view(), .weights = weights->get(), .out = out.view()});
    if (alone.empty()) alone = out.row_bytes(0);
    ASSERT_EQ(out.row_bytes(rows - 1), alone) << rows << " rows";
  }
}

TEST_P(PackedGemmTest, AnEmbeddingReadsTheRowsOfAPackedTable) {
  const int64_t hidden = 200;
  const PackedSource table = Source(70, hidden, 4);
  const HostMatrix matrix = table.matrix();
  const auto weights = backend_->LoadLinear({&matrix, 1}, {}, format());
  ASSERT_TRUE(weights.ok()) << weights.status();
  const std::vector<int32_t> ids = {0, 69, 63, 64, 5, 5};
  const IntArray device_ids(*backend_, ids);
  const Tensor out(*backend_, DType::kF32, 6, hidden);
  backend_->EmbedTokens(**weights, device_ids.data(), 12.0f, out.view());
  const auto got = out.values();
  for (size_t t = 0; t < ids.size(); ++t) {
    for (int64_t i = 0; i < hidden; ++i) {
      ASSERT_EQ(got[t * hidden + i], 12.0f * table.values()[ids[t] * hidden + i]) << t << " " << i;
    }
  }
}

TEST_P(PackedGemmTest, WeightsTakeTheBytesOfTheirFormat) {
  const PackedSource w = Source(160, 256, 2);
  const HostMatrix matrix = w.matrix();
  const auto weights = backend_->LoadLinear({&matrix, 1}, {}, format());
  ASSERT_TRUE(weights.ok()) << weights.status();
  // 8 groups or 2 blocks of a row have a scale each.
  const int64_t row_bytes = packing() == Packing::kInt8   ? 256 + 8 * 2
                            : packing() == Packing::kInt4 ? 128 + 8 * 2
                                                          : 256 + 2 * 4;
  EXPECT_EQ((*weights)->size_bytes(), 160 * row_bytes);
}

TEST_P(PackedGemmTest, AWeightThatIsNoNumberSpoilsItsFeatureOnly) {
  const int64_t n = 20, k = 200;
  std::vector<float> values(n * k, 0.5f);
  values[7 * k + 50] = std::numeric_limits<float>::quiet_NaN();
  const HostWeights host(values, k, DType::kBF16);
  HostFp8 fp8({.rows = n, .cols = k}, 3);
  fp8.SetNan(7, 50);
  const HostMatrix matrix = packing() == Packing::kFp8 ? fp8.matrix() : host.matrix();
  const auto weights = backend_->LoadLinear({&matrix, 1}, {}, format());
  ASSERT_TRUE(weights.ok()) << weights.status();
  const Tensor in(*backend_, DType::kBF16, k, std::vector<float>(k, 1.0f));
  const Tensor out(*backend_, DType::kF32, 1, n);
  backend_->Linear({.x = in.view(), .weights = weights->get(), .out = out.view()});
  const auto got = out.values();
  for (int64_t i = 0; i < n; ++i) EXPECT_EQ(std::isnan(got[i]), i == 7) << i;
}

/// Fp8 matrices on every backend.
class Fp8Test : public testing::TestWithParam<OpConfig> {
 protected:
  std::unique_ptr<Backend> backend_ = MakeBackend(GetParam());
};

INSTANTIATE_TEST_SUITE_P(All, Fp8Test, testing::ValuesIn(AllConfigs()), ConfigName);

TEST_P(Fp8Test, CpusDequantiseWhatTheyLoadAndGpusWhatTheyMultiply) {
  const int64_t n = 140, k = 300, rows = 5;
  const DType dtype = GetParam().dtype;
  const HostFp8 host({.rows = n, .cols = k, .rows_before = 100}, 9);
  auto w = host.values();
  if (GetParam().device == "cpu") {
    for (float& value : w) value = RoundTo(dtype, value);
  }
  const HostMatrix matrix = host.matrix();
  const auto weights = backend_->LoadLinear({&matrix, 1}, {}, WeightFormat::kStored);
  ASSERT_TRUE(weights.ok()) << weights.status();
  const auto x = RandomValues(rows * k, 1, dtype);
  const Tensor in(*backend_, dtype, k, x), out(*backend_, DType::kF32, rows, n);
  backend_->Linear({.x = in.view(), .weights = weights->get(), .out = out.view()});
  ExpectClose(out.values(), Product(x, w, k), ToleranceOf(dtype).f32_output, "fp8");
}

TEST_P(Fp8Test, AsIntegersTheyAreWhatTheirFloatsAre) {
  const int64_t n = 40, k = 300, rows = 3;
  const HostFp8 host({.rows = n, .cols = k}, 9);
  const HostWeights floats(host.values(), k, DType::kF32);
  const auto x = RandomValues(rows * k, 1, DType::kBF16);
  const Tensor in(*backend_, DType::kBF16, k, x);
  for (WeightFormat format : {WeightFormat::kInt8, WeightFormat::kInt4}) {
    std::vector<std::vector<uint8_t>> products;
    for (const HostMatrix& matrix : {host.matrix(), floats.matrix()}) {
      const auto weights = backend_->LoadLinear({&matrix, 1}, {}, format);
      if (GetParam().dtype == DType::kF32) {  // integers need bf16 activations
        EXPECT_EQ(weights.status().code(), absl::StatusCode::kInvalidArgument);
        return;
      }
      ASSERT_TRUE(weights.ok()) << weights.status();
      const Tensor out(*backend_, DType::kF32, rows, n);
      backend_->Linear({.x = in.view(), .weights = weights->get(), .out = out.view()});
      products.push_back(out.bytes());
    }
    EXPECT_EQ(products[0], products[1]);
  }
}

TEST_P(Fp8Test, AMatrixWithoutScalesIsRefused) {
  HostMatrix matrix = HostFp8({.rows = 4, .cols = 4}, 1).matrix();
  matrix.scales = {};
  EXPECT_EQ(backend_->LoadLinear({&matrix, 1}, {}, WeightFormat::kStored).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace moed::kernels
