#include <bit>
#include <limits>

#include "tests/kernels/integer_reference.h"

/// Products of integer weights: odd values, and what must not change a value.
namespace moed::kernels {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::vector<float> Slice(const std::vector<float>& values, int64_t begin, int64_t end) {
  return {values.begin() + begin, values.begin() + end};
}

/// The same bits, element by element.
void ExpectSame(const std::vector<float>& got, const std::vector<float>& expected) {
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_EQ(std::bit_cast<uint32_t>(got[i]), std::bit_cast<uint32_t>(expected[i]))
        << "element " << i << " is " << got[i] << ", expected " << expected[i];
  }
}

void ExpectAllNan(const std::vector<float>& values) {
  for (float v : values) ASSERT_TRUE(std::isnan(v)) << v;
}

/// For every instruction set and both formats.
struct EdgeCase {
  OpConfig config;
  WeightFormat format;
};
void PrintTo(const EdgeCase& c, std::ostream* out) { PrintTo(c.config, out); }

std::string EdgeName(const testing::TestParamInfo<EdgeCase>& info) {
  return info.param.config.instruction_set +
         (info.param.format == WeightFormat::kInt8 ? "_int8" : "_int4");
}

std::vector<EdgeCase> EdgeCases() {
  std::vector<EdgeCase> cases;
  for (const OpConfig& config : IntegerConfigs()) {
    for (WeightFormat format : {WeightFormat::kInt8, WeightFormat::kInt4}) {
      cases.push_back({config, format});
    }
  }
  return cases;
}

/// y = x W^T on a backend; x [*, k], W [*, k].
struct LinearRun {
  OpConfig config;
  WeightFormat format;
  int64_t k;
  int threads = 1;
  DType source = DType::kBF16;

  std::vector<float> operator()(const std::vector<float>& x, const std::vector<float>& w) const {
    const auto backend = MakeBackend(config, threads);
    const HostWeights host(w, k, source);
    const HostMatrix matrix = host.matrix();
    const auto weights = backend->LoadLinear({&matrix, 1}, {}, format);
    EXPECT_TRUE(weights.ok()) << weights.status();
    const Tensor in(*backend, DType::kBF16, k, x);
    const Tensor out(*backend, DType::kF32, in.view().rows, matrix.rows);
    backend->Linear({.x = in.view(), .weights = weights->get(), .out = out.view()});
    return out.values();
  }
};

class IntGemmEdgeTest : public testing::TestWithParam<EdgeCase> {
 protected:
  LinearRun Run(int64_t k) const { return {GetParam().config, GetParam().format, k}; }
};

INSTANTIATE_TEST_SUITE_P(All, IntGemmEdgeTest, testing::ValuesIn(EdgeCases()), EdgeName);

TEST_P(IntGemmEdgeTest, AnOutlierSpoilsOnlyItsOwnGroup) {
  const int64_t k = 200, n = 66, rows = 7;
  const auto plain = RandomValues(rows * k, 1, DType::kBF16);
  auto w = RandomValues(n * k, 2, DType::kBF16);
  for (int64_t c = 0; c < n; c += 2) {  // every other feature does not look at group 3
    std::fill_n(w.begin() + c * k + 96, 32, 0.0f);
  }
  auto spoilt = plain;
  spoilt[2 * k + 100] = RoundTo(DType::kBF16, 1000.0f);
  const auto without = Run(k)(plain, w), with = Run(k)(spoilt, w);
  ExpectClose(with,
              Product(QuantizeActivations(spoilt, k), QuantizeWeights(w, k, GetParam().format)),
              3e-6f, "with an outlier");
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < n; ++c) {
      const bool sees_it = r == 2 && c % 2 == 1;
      ASSERT_EQ(with[r * n + c] != without[r * n + c], sees_it) << r << ", " << c;
    }
  }
}

TEST_P(IntGemmEdgeTest, ZeroRowsAndZeroWeightsGiveZero) {
  const int64_t k = 70, n = 70, rows = 8;
  auto x = RandomValues(rows * k, 1, DType::kBF16), w = RandomValues(n * k, 2, DType::kBF16);
  std::fill_n(x.begin() + 3 * k, k, 0.0f);
  std::fill_n(x.begin() + 5 * k, k, -0.0f);
  std::fill_n(w.begin() + 33 * k, k, 0.0f);
  const auto y = Run(k)(x, w);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < n; ++c) {
      ASSERT_EQ(y[r * n + c] == 0.0f, r == 3 || r == 5 || c == 33) << r << ", " << c;
    }
  }
}

TEST_P(IntGemmEdgeTest, HugeAndSmallNumbersKeepTheirScales) {
  const int64_t k = 96, n = 40;
  for (const auto& [of_x, of_w] : {std::pair(0x1p100f, 0x1p-90f),
                                   {0x1p-100f, 0x1p90f},
                                   {0x1p-110f, 1.0f},
                                   {0x1p120f, 1.0f},
                                   {1.0f, 0x1p-110f}}) {
    const auto x = RandomValues(5 * k, 1, DType::kBF16, of_x);
    const auto w = RandomValues(n * k, 2, DType::kBF16, of_w);
    ExpectClose(Run(k)(x, w),
                Product(QuantizeActivations(x, k), QuantizeWeights(w, k, GetParam().format)), 3e-6f,
                testing::PrintToString(of_x));
  }
}

TEST_P(IntGemmEdgeTest, GroupsThatAreAlmostZeroDisturbNothing) {
  const int64_t k = 64, n = 40;
  for (float tiny : {0x1p-119f, 0x1p-121f, 0x1p-123f, 0x1p-126f, 0x1p-130f, 0x1p-133f}) {
    // Of activations: next to nothing is lost, down to the smallest numbers there are.
    auto x = RandomValues(3 * k, 1, DType::kBF16);
    std::vector<float> group(32, 0.0f);
    group[5] = tiny, group[6] = -tiny, group[31] = 0x1p-133f;
    std::copy(group.begin(), group.end(), x.begin() + k + 32);  // the second group of row 1
    std::fill_n(x.begin() + k, 32, 0.0f);
    const auto w = RandomValues(n * k, 2, DType::kBF16, 0x1p100f);
    const auto y = Run(k)(x, w);
    const QuantizedMatrix qw = QuantizeWeights(w, k, GetParam().format);
    for (int64_t c = 0; c < n; ++c) {
      double exact = 0;
      for (int64_t i = 0; i < 32; ++i) exact += static_cast<double>(group[i]) * qw.Value(c, 32 + i);
      // A step of the smallest scale, 2^-121 / 127, by half, for each element.
      ASSERT_NEAR(y[n + c], exact, (std::abs(tiny) / 100 + 0x1p-128) * 0x1p103) << tiny;
    }
    // Of weights: a tiny group may be rounded coarsely, but to something tiny.
    auto small = RandomValues(n * k, 3, DType::kBF16);
    std::copy(group.begin(), group.end(), small.begin() + 7 * k);
    std::fill_n(small.begin() + 7 * k + 32, 32, 0.0f);
    const auto z = Run(k)(RandomValues(3 * k, 4, DType::kBF16), small);
    for (int64_t r = 0; r < 3; ++r) ASSERT_LE(std::abs(z[r * n + 7]), 0x1p-110) << tiny;
    for (float v : z) ASSERT_TRUE(std::isfinite(v));
  }
}

TEST_P(IntGemmEdgeTest, WhatIsNoNumberStaysInItsRow) {
  for (int64_t k : {40, 2080}) {
    const int64_t n = 70, rows = 13;
    const auto plain = RandomValues(rows * k, 1, DType::kBF16);
    const auto w = RandomValues(n * k, 2, DType::kBF16);
    const auto expected = Run(k)(plain, w);
    for (float bad : {kInf, -kInf, kNan}) {
      for (int64_t row : {0, 4, 12}) {
        for (int64_t column : {int64_t{0}, k - 1}) {
          auto x = plain;
          x[row * k + column] = bad;
          const auto y = Run(k)(x, w);
          ExpectAllNan(Slice(y, row * n, (row + 1) * n));
          ExpectSame(Slice(y, 0, row * n), Slice(expected, 0, row * n));
          ExpectSame(Slice(y, (row + 1) * n, rows * n), Slice(expected, (row + 1) * n, rows * n));
        }
      }
    }
  }
}

TEST_P(IntGemmEdgeTest, WhatIsNoNumberStaysInItsFeature) {
  const int64_t k = 75, n = 70, rows = 7;
  const auto x = RandomValues(rows * k, 1, DType::kBF16);
  const auto plain = RandomValues(n * k, 2, DType::kBF16);
  for (DType source : {DType::kBF16, DType::kF32}) {
    LinearRun run = Run(k);
    run.source = source;
    const auto expected = run(x, plain);
    for (float bad : {kInf, -kInf, kNan}) {
      for (int64_t feature : {0, 31, 32, 69}) {
        for (int64_t column : {0, 33, 74}) {
          auto w = plain;
          w[feature * k + column] = bad;
          const auto y = run(x, w);
          for (int64_t i = 0; i < rows * n; ++i) {
            if (i % n == feature) {
              ASSERT_TRUE(std::isnan(y[i])) << i;
            } else {
              ASSERT_EQ(y[i], expected[i]) << i;
            }
          }
        }
      }
    }
  }
}

TEST_P(IntGemmEdgeTest, ARowHasTheSameBitsInEveryCompanyAndOnAnyThreads) {
  for (const auto& [n, k] : {std::pair<int64_t, int64_t>{130, 96}, {33, 5000}}) {
    const auto x = RandomValues(200 * k, 1, DType::kBF16);
    const auto w = RandomValues(n * k, 2, DType::kBF16);
    const auto alone = Run(k)(Slice(x, 199 * k, 200 * k), w);
    for (int threads : {1, 2, 3}) {
      LinearRun run = Run(k);
      run.threads = threads;
      for (int64_t rows : {2, 3, 4, 5, 6, 7, 11, 12, 13, 96, 97, 200}) {
        // The row in question is the last of the batch.
        SCOPED_TRACE(rows);
        const auto y = run(Slice(x, (200 - rows) * k, 200 * k), w);
        ASSERT_NO_FATAL_FAILURE(ExpectSame(Slice(y, (rows - 1) * n, rows * n), alone));
      }
    }
  }
}

TEST_P(IntGemmEdgeTest, ARowOfAnExpertHasTheSameBitsWithAndWithoutIndices) {
  const int64_t hidden = 96, width = 40;
  const auto gate = RandomValues(width * hidden, 1, DType::kBF16, 0.1f);
  const HostWeights host_gate(gate, hidden, DType::kBF16), host_down(gate, width, DType::kBF16);
  const ExpertSource source = {host_gate.matrix(), host_gate.matrix(), host_down.matrix()};
  const ExpertSource sources[] = {source, source};
  const auto x = RandomValues(20 * hidden, 4, DType::kBF16);
  std::vector<uint8_t> mid_alone, out_alone;
  for (int threads : {1, 2}) {
    const auto backend = MakeBackend(GetParam().config, threads);
    const auto weights = backend->LoadExperts(sources, GetParam().format);
    ASSERT_TRUE(weights.ok());
    const Tensor in(*backend, DType::kBF16, hidden, x);
    for (int32_t rows : {1, 5, 7, 13, 100}) {
      // Row 19 of x is the last row of the second expert.
      std::vector<int32_t> x_row(rows + 3, 7);
      x_row.back() = 19;
      const std::vector<int32_t> offsets = {0, 3, rows + 3};
      const IntArray x_rows(*backend, x_row);
      const Tensor mid(*backend, DType::kBF16, rows + 3, width);
      const Tensor out(*backend, DType::kBF16, rows + 3, hidden);
      backend->ExpertsGateUp({.x = in.view(),
                              .x_row = x_rows.data(),
                              .experts = weights->get(),
                              .expert_offsets = offsets,
                              .out = mid.view()});
      backend->ExpertsDown({.x = mid.view(),
                            .experts = weights->get(),
                            .expert_offsets = offsets,
                            .out = out.view()});
      if (mid_alone.empty()) {
        mid_alone = mid.row_bytes(rows + 2), out_alone = out.row_bytes(rows + 2);
      }
      ASSERT_EQ(mid.row_bytes(rows + 2), mid_alone) << rows;
      ASSERT_EQ(out.row_bytes(rows + 2), out_alone) << rows;
      const Tensor gathered(*backend, DType::kBF16, rows + 3, hidden);
      backend->GatherRows({.src = in.view(), .row_index = x_rows.data(), .out = gathered.view()});
      const Tensor again(*backend, DType::kBF16, rows + 3, width);
      backend->ExpertsGateUp({.x = gathered.view(),
                              .experts = weights->get(),
                              .expert_offsets = offsets,
                              .out = again.view()});
      ASSERT_EQ(again.bytes(), mid.bytes());
    }
  }
}

// The portable kernels round a * b + c twice where the platform has no fused multiply-add, so they
// are not among them.
TEST(IntGemmAcrossInstructionSetsTest, AllWithFusedMultiplyAddGiveTheSameBits) {
  const int64_t k = 2500, n = 70, rows = 13;
  const auto x = RandomValues(rows * k, 1, DType::kBF16), w = RandomValues(n * k, 2, DType::kF32);
  for (WeightFormat format : {WeightFormat::kInt8, WeightFormat::kInt4}) {
    std::vector<float> expected;
    for (const OpConfig& config : IntegerConfigs()) {
      if (config.instruction_set == "portable") continue;
      const auto y =
          LinearRun{.config = config, .format = format, .k = k, .source = DType::kF32}(x, w);
      if (expected.empty()) expected = y;
      SCOPED_TRACE(config.instruction_set);
      ExpectSame(y, expected);
    }
  }
}

TEST_P(IntGemmEdgeTest, TheSizeIsThatOfTheGroupsOfWholePanels) {
  const auto backend = MakeBackend(GetParam().config);
  // 32 integers of a group and a scale of two bytes.
  const int64_t group = GetParam().format == WeightFormat::kInt8 ? 32 + 2 : 16 + 2;
  for (const auto& [n, k] : {std::pair<int64_t, int64_t>{64, 32}, {1, 1}, {65, 33}, {128, 1000}}) {
    const HostWeights host(RandomValues(n * k, 1, DType::kBF16), k, DType::kBF16);
    const HostMatrix matrix = host.matrix();
    const auto weights = backend->LoadLinear({&matrix, 1}, {}, GetParam().format);
    ASSERT_TRUE(weights.ok());
    EXPECT_EQ((*weights)->size_bytes(), (n + 63) / 64 * 64 * ((k + 31) / 32) * group);
  }
  const HostWeights in(RandomValues(40 * 33, 1, DType::kBF16), 33, DType::kBF16);
  const HostWeights down(RandomValues(33 * 40, 1, DType::kBF16), 40, DType::kBF16);
  const ExpertSource expert = {in.matrix(), in.matrix(), down.matrix()};
  const ExpertSource experts[] = {expert, expert, expert};
  const auto weights = backend->LoadExperts(experts, GetParam().format);
  ASSERT_TRUE(weights.ok());
  // Gate and up: 2 panels of 32 features of each; down: 1 panel.
  EXPECT_EQ((*weights)->size_bytes(), 3 * (2 * 64 * 2 + 64 * 2) * group);
}

TEST_P(IntGemmEdgeTest, EmbeddingGivesTheIntegersTimesTheirScales) {
  for (int64_t hidden : {96, 33}) {
    const auto table = RandomValues(200 * hidden, 1, DType::kBF16);
    const HostWeights host(table, hidden, DType::kBF16);
    const HostMatrix matrix = host.matrix();
    const auto backend = MakeBackend(GetParam().config);
    const auto weights = backend->LoadLinear({&matrix, 1}, {}, GetParam().format);
    ASSERT_TRUE(weights.ok());
    const QuantizedMatrix expected = QuantizeWeights(table, hidden, GetParam().format);
    const std::vector<int32_t> ids = {0, 199, 31, 32, 63, 64, 150, 150};
    const IntArray device_ids(*backend, ids);
    const Tensor out(*backend, DType::kF32, 8, hidden);
    backend->EmbedTokens(**weights, device_ids.data(), 4.0f, out.view());
    const auto got = out.values();
    for (size_t t = 0; t < ids.size(); ++t) {
      for (int64_t i = 0; i < hidden; ++i) {  // powers of two and products of 8 by 8 bits are exact
        ASSERT_EQ(got[t * hidden + i], 4.0 * expected.Value(ids[t], i)) << t << ", " << i;
      }
    }
  }
}

TEST_P(IntGemmEdgeTest, Float32ActivationsAreRefused) {
  const auto backend = MakeBackend({GetParam().config.instruction_set, DType::kF32});
  const HostWeights host(RandomValues(64, 1, DType::kBF16), 8, DType::kBF16);
  const HostMatrix matrix = host.matrix();
  EXPECT_EQ(backend->LoadLinear({&matrix, 1}, {}, GetParam().format).status().code(),
            absl::StatusCode::kInvalidArgument);
  const ExpertSource expert = {matrix, matrix, matrix};  // 8 x 8
  EXPECT_EQ(backend->LoadExperts({&expert, 1}, GetParam().format).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace moed::kernels
