#include <algorithm>
#include <numeric>

#include "tests/kernels/op_test_util.h"

namespace moed::kernels {
namespace {

/// y = x W^T in double.
std::vector<float> Product(const std::vector<float>& x, const std::vector<float>& w, int64_t k) {
  const int64_t rows = static_cast<int64_t>(x.size()) / k, n = static_cast<int64_t>(w.size()) / k;
  std::vector<float> y(rows * n);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < n; ++c) {
      double sum = 0;
      for (int64_t i = 0; i < k; ++i) sum += static_cast<double>(x[r * k + i]) * w[c * k + i];
      y[r * n + c] = static_cast<float>(sum);
    }
  }
  return y;
}

std::vector<float> Row(const std::vector<float>& m, int64_t cols, int64_t row) {
  return {m.begin() + row * cols, m.begin() + (row + 1) * cols};
}

/// What a backend of that dtype makes of stored weights.
std::vector<float> AsStored(std::vector<float> w, DType source, DType activations) {
  for (float& x : w) {
    x = RoundTo(source, x);
    if (activations == DType::kBF16) x = RoundTo(DType::kBF16, x);
  }
  return w;
}

class GemmTest : public testing::TestWithParam<OpConfig> {
 protected:
  DType dtype() const { return GetParam().dtype; }
  Tolerance tolerance() const { return ToleranceOf(dtype()); }

  std::unique_ptr<Backend> backend_ = MakeBackend(GetParam());
};

INSTANTIATE_TEST_SUITE_P(All, GemmTest, testing::ValuesIn(AllConfigs()), ConfigName);

struct Shape {
  int64_t rows, n, k;
};
const Shape kShapes[] = {{1, 64, 64},   {1, 1, 1},      {2, 3, 5},   {3, 96, 96},   {4, 40, 24},
                         {5, 130, 33},  {6, 1000, 96},  {7, 5, 200}, {13, 64, 1},   {32, 72, 127},
                         {100, 65, 48}, {193, 17, 130}, {0, 64, 64}, {1, 512, 1024}};

TEST_P(GemmTest, LinearMatchesTheReferenceForEveryStorageFormat) {
  for (const Shape& s : kShapes) {
    for (DType source : {DType::kBF16, DType::kF32, DType::kF16}) {
      const auto x = RandomValues(s.rows * s.k, 1, dtype());
      const auto w = AsStored(RandomValues(s.n * s.k, 2, DType::kF32), source, dtype());
      const HostWeights host(RandomValues(s.n * s.k, 2, DType::kF32), s.k, source, s.k + 3);
      const HostMatrix matrix = host.matrix();
      const auto weights = backend_->LoadLinear({&matrix, 1}, {}, kernels::WeightFormat::kStored);
      ASSERT_TRUE(weights.ok()) << weights.status();
      EXPECT_EQ((*weights)->out_features(), s.n);
      EXPECT_EQ((*weights)->in_features(), s.k);
      const Tensor in(*backend_, dtype(), s.k, x);
      const Tensor out(*backend_, DType::kF32, s.rows, s.n);
      backend_->Linear({.x = in.view(), .weights = weights->get(), .out = out.view()});
      ExpectClose(out.values(), Product(x, w, s.k), tolerance().f32_output,
                  "linear of " + std::to_string(s.n) + " x " + std::to_string(s.k));
    }
  }
}

TEST_P(GemmTest, LongRowsAreWalkedInBlocks) {
  // Panels are cut along k at multiples of 2048 when there are several tiles of rows.
  for (const Shape& s : {Shape{7, 65, 2047}, {7, 65, 2048}, {13, 5, 2049}, {97, 3, 4097}}) {
    for (DType source : {DType::kBF16, DType::kF32}) {
      const auto x = RandomValues(s.rows * s.k, 1, dtype());
      const auto stored = RandomValues(s.n * s.k, 2, DType::kF32);
      const HostWeights host(stored, s.k, source);
      const HostMatrix matrix = host.matrix();
      const auto weights = backend_->LoadLinear({&matrix, 1}, {}, kernels::WeightFormat::kStored);
      ASSERT_TRUE(weights.ok()) << weights.status();
      const Tensor in(*backend_, dtype(), s.k, x), out(*backend_, DType::kF32, s.rows, s.n);
      backend_->Linear({.x = in.view(), .weights = weights->get(), .out = out.view()});
      ExpectClose(out.values(), Product(x, AsStored(stored, source, dtype()), s.k),
                  tolerance().f32_output, "linear of rows of " + std::to_string(s.k));
      // The last row alone is one tile, and takes k in one piece.
      const Tensor last(*backend_, dtype(), s.k, Row(x, s.k, s.rows - 1));
      const Tensor alone(*backend_, DType::kF32, 1, s.n);
      backend_->Linear({.x = last.view(), .weights = weights->get(), .out = alone.view()});
      EXPECT_EQ(alone.bytes(), out.row_bytes(s.rows - 1)) << s.k;
    }
  }
}

TEST_P(GemmTest, StackedSourcesAndTheBiasComeOutSideBySide) {
  const int64_t k = 50;
  const auto a = RandomValues(70 * k, 1, DType::kBF16), b = RandomValues(9 * k, 2, DType::kBF16);
  const HostWeights host_a(a, k, DType::kBF16), host_b(b, k, DType::kF32);
  const HostMatrix stacked[] = {host_a.matrix(), host_b.matrix()};
  const auto bias = RandomValues(79, 3, DType::kF32);
  const auto weights = backend_->LoadLinear(stacked, bias, kernels::WeightFormat::kStored);
  ASSERT_TRUE(weights.ok()) << weights.status();
  const auto x = RandomValues(3 * k, 4, dtype());
  auto w = a;
  w.insert(w.end(), b.begin(), b.end());
  auto expected = Product(x, w, k);
  for (int r = 0; r < 3; ++r) {
    for (int c = 0; c < 79; ++c) expected[r * 79 + c] += bias[c];
  }
  const Tensor in(*backend_, dtype(), k, x), out(*backend_, DType::kF32, 3, 79);
  backend_->Linear({.x = in.view(), .weights = weights->get(), .out = out.view()});
  ExpectClose(out.values(), expected, tolerance().f32_output, "stacked");

  const auto before = RandomValues(3 * 79, 5, DType::kF32);
  const Tensor sum(*backend_, DType::kF32, 79, before);
  backend_->Linear({.x = in.view(),
                    .weights = weights->get(),
                    .out = sum.view(),
                    .accumulate = true,
                    .scale = 0.22f});
  for (size_t i = 0; i < expected.size(); ++i) expected[i] = before[i] + 0.22f * expected[i];
  ExpectClose(sum.values(), expected, tolerance().f32_output, "accumulated");
}

TEST_P(GemmTest, MalformedSourcesAreRefused) {
  const HostWeights host(RandomValues(64, 1, DType::kBF16), 8, DType::kBF16);
  const HostMatrix good = host.matrix();
  HostMatrix other_k = good, ints = good, no_data = good, short_stride = good;
  other_k.cols = 7;
  ints.dtype = DType::kI32;
  no_data.data = nullptr;
  short_stride.row_stride = 5;
  for (const HostMatrix& bad : {other_k, ints, no_data, short_stride}) {
    const HostMatrix stacked[] = {good, bad};
    EXPECT_EQ(backend_->LoadLinear(stacked, {}, kernels::WeightFormat::kStored).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
  const float bias[3] = {};
  EXPECT_FALSE(backend_->LoadLinear({&good, 1}, bias, kernels::WeightFormat::kStored).ok());
  EXPECT_FALSE(backend_->LoadLinear({}, {}, kernels::WeightFormat::kStored).ok());
  EXPECT_FALSE(backend_->LoadExperts({}, kernels::WeightFormat::kStored).ok());
  const ExpertSource lopsided = {.gate = good, .up = good, .down = other_k};
  EXPECT_FALSE(backend_->LoadExperts({&lopsided, 1}, kernels::WeightFormat::kStored).ok());
}

TEST_P(GemmTest, EmbeddingReadsTheRowsOfThePackedTable) {
  for (int64_t hidden : {96, 33}) {
    const auto table = RandomValues(1000 * hidden, 1, DType::kBF16);
    const HostWeights host(table, hidden, DType::kBF16);
    const HostMatrix matrix = host.matrix();
    const auto weights = backend_->LoadLinear({&matrix, 1}, {}, kernels::WeightFormat::kStored);
    ASSERT_TRUE(weights.ok());
    const std::vector<int32_t> ids = {0, 999, 63, 64, 500, 500};
    const IntArray device_ids(*backend_, ids);
    const Tensor out(*backend_, DType::kF32, 6, hidden);
    backend_->EmbedTokens(**weights, device_ids.data(), 12.0f, out.view());
    const auto got = out.values();
    for (size_t t = 0; t < ids.size(); ++t) {
      for (int64_t i = 0; i < hidden; ++i) {
        ASSERT_EQ(got[t * hidden + i], 12.0f * table[ids[t] * hidden + i]);
      }
    }
  }
}

TEST_P(GemmTest, ARowOfLinearHasTheSameBitsInEveryCompanyAndOnAnyThreads) {
  for (const auto& [n, k] : {std::pair<int64_t, int64_t>{200, 96}, {64, 257}}) {
    const HostWeights host(RandomValues(n * k, 2, DType::kBF16), k, DType::kBF16);
    const HostMatrix matrix = host.matrix();
    const auto x = RandomValues(130 * k, 1, dtype());
    std::vector<uint8_t> alone;
    for (int threads : ThreadCounts(GetParam())) {
      const auto backend = MakeBackend(GetParam(), threads);
      const auto weights = backend->LoadLinear({&matrix, 1}, {}, kernels::WeightFormat::kStored);
      ASSERT_TRUE(weights.ok());
      for (int64_t rows : {1, 2, 3, 4, 5, 6, 7, 11, 13, 32, 64, 130}) {
        // The row in question is the last of the batch.
        const std::vector<float> batch(x.end() - rows * k, x.end());
        const Tensor in(*backend, dtype(), k, batch), out(*backend, DType::kF32, rows, n);
        backend->Linear({.x = in.view(), .weights = weights->get(), .out = out.view()});
        if (alone.empty()) alone = out.row_bytes(rows - 1);
        ASSERT_EQ(out.row_bytes(rows - 1), alone) << rows << " rows, " << threads << " threads";
      }
    }
  }
}

float Silu(float x) { return x / (1.0f + std::exp(-x)); }

struct Experts {
  int64_t num, hidden, width;
  std::vector<std::vector<float>> gate, up, down;
  std::vector<HostWeights> host;
  std::vector<ExpertSource> sources;
};

Experts MakeExperts(int64_t num, int64_t hidden, int64_t width, DType source) {
  Experts e{.num = num, .hidden = hidden, .width = width};
  const float scale = 1.0f / std::sqrt(static_cast<float>(hidden));
  for (int64_t i = 0; i < num; ++i) {
    const uint32_t seed = static_cast<uint32_t>(100 + 3 * i);
    e.gate.push_back(RandomValues(width * hidden, seed, DType::kBF16, 2 * scale));
    e.up.push_back(RandomValues(width * hidden, seed + 1, DType::kBF16, scale));
    e.down.push_back(RandomValues(hidden * width, seed + 2, DType::kBF16, scale));
    e.host.emplace_back(e.gate.back(), hidden, source);
    e.host.emplace_back(e.up.back(), hidden, source, hidden + 8);
    e.host.emplace_back(e.down.back(), width, source);
  }
  for (int64_t i = 0; i < num; ++i) {
    e.sources.push_back({.gate = e.host[3 * i].matrix(),
                         .up = e.host[3 * i + 1].matrix(),
                         .down = e.host[3 * i + 2].matrix()});
  }
  return e;
}

struct ExpertCase {
  int64_t num, hidden, width;
  std::vector<int32_t> offsets;
};
const ExpertCase kExpertCases[] = {
    {1, 96, 40, {0, 5}},
    {5, 96, 40, {0, 3, 3, 4, 20, 20}},
    {5, 33, 7, {0, 0, 1, 1, 14, 14}},
    {3, 64, 64, {0, 0, 0, 0}},
    {4, 128, 96, {0, 100, 101, 107, 120}},
};

TEST_P(GemmTest, ExpertsMatchTheReferenceWithAndWithoutIndices) {
  for (const ExpertCase& c : kExpertCases) {
    for (DType source : {DType::kBF16, DType::kF32}) {
      const Experts e = MakeExperts(c.num, c.hidden, c.width, source);
      const auto weights = backend_->LoadExperts(e.sources, kernels::WeightFormat::kStored);
      ASSERT_TRUE(weights.ok()) << weights.status();
      EXPECT_EQ((*weights)->num_experts(), c.num);
      EXPECT_EQ((*weights)->hidden_size(), c.hidden);
      EXPECT_EQ((*weights)->intermediate_size(), c.width);
      const int64_t rows = c.offsets.back(), tokens = 9;
      const auto x = RandomValues(tokens * c.hidden, 1, dtype());
      std::vector<int32_t> x_row(rows), out_row(rows);
      for (int64_t i = 0; i < rows; ++i) x_row[i] = static_cast<int32_t>(i * 5 % tokens);
      std::iota(out_row.rbegin(), out_row.rend(), 1);  // row 0 of out stays untouched
      const IntArray x_rows(*backend_, x_row), out_rows(*backend_, out_row);
      const Tensor in(*backend_, dtype(), c.hidden, x);
      const Tensor mid(*backend_, dtype(), rows, c.width);
      backend_->ExpertsGateUp({.x = in.view(),
                               .x_row = x_rows.data(),
                               .experts = weights->get(),
                               .expert_offsets = c.offsets,
                               .out = mid.view()});
      const Tensor out(*backend_, dtype(), rows + 1, c.hidden);
      const auto untouched = out.row_bytes(0);
      backend_->ExpertsDown({.x = mid.view(),
                             .experts = weights->get(),
                             .expert_offsets = c.offsets,
                             .out_row = out_rows.data(),
                             .out = out.view()});
      EXPECT_EQ(out.row_bytes(0), untouched);
      const auto mid_values = mid.values(), out_values = out.values();
      for (int64_t i = 0; i < rows; ++i) {
        const int64_t expert =
            std::upper_bound(c.offsets.begin(), c.offsets.end(), i) - c.offsets.begin() - 1;
        const auto x_values = Row(x, c.hidden, x_row[i]);
        auto expected = Product(x_values, e.gate[expert], c.hidden);
        const auto up = Product(x_values, e.up[expert], c.hidden);
        for (int64_t j = 0; j < c.width; ++j) expected[j] = Silu(expected[j]) * up[j];
        ExpectClose(Row(mid_values, c.width, i), expected, tolerance().activation_output,
                    "gate/up");
        ExpectClose(Row(out_values, c.hidden, out_row[i]),
                    Product(Row(mid_values, c.width, i), e.down[expert], c.width),
                    tolerance().activation_output, "down");
      }
    }
  }
}

TEST_P(GemmTest, ExpertsDoTheSameWithOffsetsThatOnlyTheBackendKnows) {
  const Experts e = MakeExperts(6, 96, 40, DType::kBF16);
  const auto weights = backend_->LoadExperts(e.sources, kernels::WeightFormat::kStored);
  ASSERT_TRUE(weights.ok()) << weights.status();
  // None, one, few and many rows of an expert, and one more than few.
  const std::vector<int32_t> offsets = {0, 0, 1, 18, 82, 147, 300};
  const int64_t rows = offsets.back();
  const Tensor in(*backend_, dtype(), 96, RandomValues(rows * 96, 1, dtype()));
  const IntArray backend_offsets(*backend_, offsets);
  const Tensor mid(*backend_, dtype(), rows, 40), out(*backend_, dtype(), rows, 96);
  const Tensor mid2(*backend_, dtype(), rows, 40), out2(*backend_, dtype(), rows, 96);
  backend_->ExpertsGateUp(
      {.x = in.view(), .experts = weights->get(), .expert_offsets = offsets, .out = mid.view()});
  backend_->ExpertsDown(
      {.x = mid.view(), .experts = weights->get(), .expert_offsets = offsets, .out = out.view()});
  for (int64_t most : {int64_t{153}, rows}) {
    backend_->ExpertsGateUp({.x = in.view(),
                             .experts = weights->get(),
                             .backend_offsets = backend_offsets.data(),
                             .max_rows_per_expert = most,
                             .out = mid2.view()});
    EXPECT_EQ(mid2.bytes(), mid.bytes());
    backend_->ExpertsDown({.x = mid.view(),
                           .experts = weights->get(),
                           .backend_offsets = backend_offsets.data(),
                           .max_rows_per_expert = most,
                           .out = out2.view()});
    EXPECT_EQ(out2.bytes(), out.bytes());
  }
}

TEST_P(GemmTest, ARowHasTheSameBitsWithManyFeaturesToo) {
  // Enough tiles of every shape that a backend may have for few, some and many rows.
  const int64_t n = 1100, k = 72;
  const HostWeights host(RandomValues(n * k, 2, DType::kBF16), k, DType::kBF16);
  const HostMatrix matrix = host.matrix();
  const auto weights = backend_->LoadLinear({&matrix, 1}, {}, kernels::WeightFormat::kStored);
  ASSERT_TRUE(weights.ok()) << weights.status();
  const auto x = RandomValues(200 * k, 1, dtype());
  std::vector<uint8_t> alone;
  for (int64_t rows : {1, 17, 65, 200}) {
    const Tensor in(*backend_, dtype(), k, {x.end() - rows * k, x.end()});
    const Tensor out(*backend_, DType::kF32, rows, n);
    backend_->Linear({.x = in.view(), .weights = weights->get(), .out = out.view()});
    if (alone.empty()) alone = out.row_bytes(rows - 1);
    ASSERT_EQ(out.row_bytes(rows - 1), alone) << rows << " rows";
  }
}

TEST_P(GemmTest, ARowOfAnExpertHasTheSameBitsInEveryGroupingAndOnAnyThreads) {
  const Experts e = MakeExperts(3, 96, 40, DType::kBF16);
  const auto x = RandomValues(70 * 96, 1, dtype());
  std::vector<uint8_t> mid_alone, out_alone;
  for (int threads : ThreadCounts(GetParam())) {
    const auto backend = MakeBackend(GetParam(), threads);
    const auto weights = backend->LoadExperts(e.sources, kernels::WeightFormat::kStored);
    ASSERT_TRUE(weights.ok());
    const Tensor in(*backend, dtype(), 96, x);
    for (int rows : {1, 2, 5, 6, 9, 31, 64, 300}) {
      // Row 69 of x is the last row of expert 1; other experts have more or fewer rows.
      std::vector<int32_t> x_row(rows + 3, 7);
      x_row[rows] = 69;
      const std::vector<int32_t> offsets = {0, 1, rows + 1, rows + 3};
      const IntArray x_rows(*backend, x_row);
      const Tensor mid(*backend, dtype(), rows + 3, 40), out(*backend, dtype(), rows + 3, 96);
      backend->ExpertsGateUp({.x = in.view(),
                              .x_row = x_rows.data(),
                              .experts = weights->get(),
                              .expert_offsets = offsets,
                              .out = mid.view()});
      backend->ExpertsDown({.x = mid.view(),
                            .experts = weights->get(),
                            .expert_offsets = offsets,
                            .out = out.view()});
      if (mid_alone.empty()) mid_alone = mid.row_bytes(rows), out_alone = out.row_bytes(rows);
      ASSERT_EQ(mid.row_bytes(rows), mid_alone) << rows << " rows, " << threads << " threads";
      ASSERT_EQ(out.row_bytes(rows), out_alone) << rows << " rows, " << threads << " threads";
      // And without an index, the same rows copied.
      const Tensor gathered(*backend, dtype(), rows + 3, 96);
      backend->GatherRows({.src = in.view(), .row_index = x_rows.data(), .out = gathered.view()});
      const Tensor mid2(*backend, dtype(), rows + 3, 40);
      backend->ExpertsGateUp({.x = gathered.view(),
                              .experts = weights->get(),
                              .expert_offsets = offsets,
                              .out = mid2.view()});
      ASSERT_EQ(mid2.bytes(), mid.bytes());
    }
  }
}

}  // namespace
}  // namespace moed::kernels
