#include <algorithm>
#include <numeric>

#include "tests/kernels/integer_reference.h"

/// Products of integer weights: the values, for every instruction set. What must not change a
/// value, and odd values, are in int_gemm_edge_test.cc.
namespace moed::kernels {
namespace {

// A float32 sum of up to 160 groups against one in double.
constexpr float kSumTolerance = 3e-6f;
// The same, rounded to bf16, which has 8 bits.
constexpr float kBf16Tolerance = 0x1p-8f + 1e-4f;

// Against the product of the unquantised numbers. The largest of 32 normal values is around 2.1
// times their deviation, so a step of int8 is 2.1 / 127 of it, one of int4 2.1 / 8, and an evenly
// distributed rounding error 1 / sqrt(12) of a step: 0.5 % for int8 activations and weights each,
// 7.5 % for int4 weights, and some more where a value of the other sign meets the end of the range.
double ErrorBound(WeightFormat format) { return format == WeightFormat::kInt8 ? 0.009 : 0.095; }

std::vector<float> ExactProduct(const std::vector<float>& x, const std::vector<float>& w,
                                int64_t k) {
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

std::vector<float> Rows(const std::vector<float>& m, int64_t cols, int64_t begin, int64_t end) {
  return {m.begin() + begin * cols, m.begin() + end * cols};
}

class IntGemmTest : public testing::TestWithParam<WeightFormat> {
 protected:
  WeightFormat format() const { return GetParam(); }
};

std::string FormatName(const testing::TestParamInfo<WeightFormat>& info) {
  return info.param == WeightFormat::kInt8 ? "int8" : "int4";
}

INSTANTIATE_TEST_SUITE_P(All, IntGemmTest,
                         testing::Values(WeightFormat::kInt8, WeightFormat::kInt4), FormatName);

struct Shape {
  int64_t rows, n, k;
};
// Heights of tiles and chunks, parts of groups, parts of panels, and blocks of k.
const Shape kShapes[] = {{1, 1, 1},     {2, 64, 31},   {3, 65, 33},   {4, 40, 127},  {5, 130, 1000},
                         {6, 33, 2049}, {7, 70, 2080}, {11, 96, 64},  {12, 31, 200}, {13, 65, 5000},
                         {96, 32, 160}, {97, 5, 4096}, {200, 66, 96}, {1, 64, 5000}, {0, 64, 64}};

TEST_P(IntGemmTest, LinearMatchesTheRuleForEveryShape) {
  for (const Shape& s : kShapes) {
    const auto x = RandomValues(s.rows * s.k, 1, DType::kBF16);
    const auto w = RandomValues(s.n * s.k, 2, DType::kBF16);
    const auto expected = Product(QuantizeActivations(x, s.k), QuantizeWeights(w, s.k, format()));
    const HostWeights host(w, s.k, DType::kBF16, s.k + 3);
    const HostMatrix matrix = host.matrix();
    for (const OpConfig& config : IntegerConfigs()) {
      const auto backend = MakeBackend(config);
      const auto weights = backend->LoadLinear({&matrix, 1}, {}, format());
      ASSERT_TRUE(weights.ok()) << weights.status();
      const Tensor in(*backend, DType::kBF16, s.k, x), out(*backend, DType::kF32, s.rows, s.n);
      backend->Linear({.x = in.view(s.rows), .weights = weights->get(), .out = out.view()});
      ASSERT_NO_FATAL_FAILURE(
          ExpectClose(out.values(), expected, kSumTolerance,
                      config.instruction_set + ", " + testing::PrintToString(s.rows) + " rows, " +
                          testing::PrintToString(s.n) + " x " + testing::PrintToString(s.k)));
    }
  }
}

TEST_P(IntGemmTest, SourcesOfEveryTypeAreStackedAndHaveABias) {
  const int64_t k = 100, rows = 9, n = 70 + 9 + 3;
  const auto x = RandomValues(rows * k, 1, DType::kBF16);
  const auto a = RandomValues(70 * k, 2, DType::kBF16), b = RandomValues(9 * k, 3, DType::kF32);
  const auto c = RandomValues(3 * k, 4, DType::kF16), bias = RandomValues(n, 5, DType::kF32);
  auto w = a;
  w.insert(w.end(), b.begin(), b.end());
  w.insert(w.end(), c.begin(), c.end());
  auto expected = Product(QuantizeActivations(x, k), QuantizeWeights(w, k, format()));
  for (int64_t i = 0; i < rows * n; ++i) expected[i] += bias[i % n];
  const auto before = RandomValues(rows * n, 6, DType::kF32);
  auto accumulated = before;
  for (int64_t i = 0; i < rows * n; ++i) accumulated[i] += 0.22f * expected[i];

  const HostWeights host_a(a, k, DType::kBF16), host_b(b, k, DType::kF32, k + 1);
  const HostWeights host_c(c, k, DType::kF16);
  const HostMatrix stacked[] = {host_a.matrix(), host_b.matrix(), host_c.matrix()};
  for (const OpConfig& config : IntegerConfigs()) {
    const auto backend = MakeBackend(config);
    const auto weights = backend->LoadLinear(stacked, bias, format());
    ASSERT_TRUE(weights.ok()) << weights.status();
    const Tensor in(*backend, DType::kBF16, k, x), out(*backend, DType::kF32, rows, n);
    backend->Linear({.x = in.view(), .weights = weights->get(), .out = out.view()});
    ExpectClose(out.values(), expected, kSumTolerance, config.instruction_set);
    const Tensor sum(*backend, DType::kF32, n, before);
    backend->Linear({.x = in.view(),
                     .weights = weights->get(),
                     .out = sum.view(),
                     .accumulate = true,
                     .scale = 0.22f});
    ExpectClose(sum.values(), accumulated, kSumTolerance, config.instruction_set + " accumulated");
  }
}

TEST_P(IntGemmTest, LinearIsNearTheUnquantisedProduct) {
  for (const Shape& s : {Shape{40, 200, 1000}, {40, 200, 96}, {20, 90, 5000}}) {
    const auto x = RandomValues(s.rows * s.k, 1, DType::kBF16);
    const auto w = RandomValues(s.n * s.k, 2, DType::kBF16);
    const HostWeights host(w, s.k, DType::kBF16);
    const HostMatrix matrix = host.matrix();
    const auto backend = MakeBackend(IntegerConfigs().front());
    const auto weights = backend->LoadLinear({&matrix, 1}, {}, format());
    ASSERT_TRUE(weights.ok());
    const Tensor in(*backend, DType::kBF16, s.k, x), out(*backend, DType::kF32, s.rows, s.n);
    backend->Linear({.x = in.view(), .weights = weights->get(), .out = out.view()});
    const double error = RelativeError(out.values(), ExactProduct(x, w, s.k));
    EXPECT_LT(error, ErrorBound(format())) << s.k;
    EXPECT_GT(error, ErrorBound(format()) / 2) << s.k << ": are these weights quantised at all?";
  }
}

struct ExpertValues {
  std::vector<float> gate, up, down;
};

/// Experts, and rows of x that they get by index.
struct ExpertCase {
  int64_t hidden, width;
  std::vector<int32_t> offsets;
};
const ExpertCase kExpertCases[] = {
    {96, 40, {0, 5}},       {33, 7, {0, 0, 1, 1, 14, 14}}, {1000, 96, {0, 3, 15, 28}},
    {2100, 65, {0, 1, 12}}, {64, 2100, {0, 13, 14}},       {128, 96, {0, 97, 98, 105, 117}},
};

class ExpertRun {
 public:
  ExpertRun(const ExpertCase& c, WeightFormat format) : c_(c), format_(format) {
    const int64_t size = c.width * c.hidden;
    const float scale = 1.0f / std::sqrt(static_cast<float>(c.hidden));
    for (uint32_t e = 0; e + 1 < c.offsets.size(); ++e) {
      experts_.push_back({RandomValues(size, 10 + 3 * e, DType::kBF16, 2 * scale),
                          RandomValues(size, 11 + 3 * e, DType::kBF16, scale),
                          RandomValues(size, 12 + 3 * e, DType::kBF16, scale)});
      host_.emplace_back(experts_[e].gate, c.hidden, DType::kBF16);
      host_.emplace_back(experts_[e].up, c.hidden, DType::kBF16, c.hidden + 8);
      host_.emplace_back(experts_[e].down, c.width, DType::kBF16);
    }
    for (int64_t i = 0; i < rows(); ++i) x_row_.push_back(static_cast<int32_t>(i * 5 % kTokens));
    out_row_.resize(rows());
    std::iota(out_row_.rbegin(), out_row_.rend(), 1);  // row 0 of out stays untouched
    ExpectedMid();
  }

  /// Both products on a backend, against the rule.
  void Check(const OpConfig& config) const {
    const auto backend = MakeBackend(config);
    std::vector<ExpertSource> sources;
    for (size_t e = 0; e < experts_.size(); ++e) {
      sources.push_back(
          {host_[3 * e].matrix(), host_[3 * e + 1].matrix(), host_[3 * e + 2].matrix()});
    }
    const auto weights = backend->LoadExperts(sources, format_);
    ASSERT_TRUE(weights.ok()) << weights.status();
    const IntArray x_rows(*backend, x_row_), out_rows(*backend, out_row_);
    const Tensor in(*backend, DType::kBF16, c_.hidden, x_);
    const Tensor mid(*backend, DType::kBF16, rows(), c_.width);
    const Tensor out(*backend, DType::kBF16, rows() + 1, c_.hidden);
    const auto untouched = out.row_bytes(0);
    backend->ExpertsGateUp({.x = in.view(),
                            .x_row = x_rows.data(),
                            .experts = weights->get(),
                            .expert_offsets = c_.offsets,
                            .out = mid.view()});
    backend->ExpertsDown({.x = mid.view(),
                          .experts = weights->get(),
                          .expert_offsets = c_.offsets,
                          .out_row = out_rows.data(),
                          .out = out.view()});
    EXPECT_EQ(out.row_bytes(0), untouched);
    const auto mid_values = mid.values();
    ExpectClose(mid_values, mid_, kBf16Tolerance, config.instruction_set + " gate and up");
    auto in_order = out.values();  // rows 1.. are those of mid, the last one first
    in_order.erase(in_order.begin(), in_order.begin() + c_.hidden);
    for (int64_t i = 0; i < rows() / 2; ++i) {
      std::swap_ranges(in_order.begin() + i * c_.hidden, in_order.begin() + (i + 1) * c_.hidden,
                       in_order.end() - (i + 1) * c_.hidden);
    }
    ExpectClose(in_order, ExpectedOut(mid_values), kBf16Tolerance,
                config.instruction_set + " down");
  }

 private:
  static constexpr int64_t kTokens = 9;
  int64_t rows() const { return c_.offsets.back(); }

  void ExpectedMid() {
    x_ = RandomValues(kTokens * c_.hidden, 1, DType::kBF16);
    const auto quantize = [&](const std::vector<float>& w) {
      return QuantizeWeights(w, c_.hidden, format_);
    };
    for (size_t e = 0; e < experts_.size(); ++e) {
      std::vector<float> x;
      for (int32_t i = c_.offsets[e]; i < c_.offsets[e + 1]; ++i) {
        const auto row = Rows(x_, c_.hidden, x_row_[i], x_row_[i] + 1);
        x.insert(x.end(), row.begin(), row.end());
      }
      const QuantizedMatrix q = QuantizeActivations(x, c_.hidden);
      const auto gate = Product(q, quantize(experts_[e].gate));
      const auto up = Product(q, quantize(experts_[e].up));
      for (size_t i = 0; i < gate.size(); ++i) {
        mid_.push_back(gate[i] / (1.0f + std::exp(-gate[i])) * up[i]);
      }
    }
  }

  std::vector<float> ExpectedOut(const std::vector<float>& mid) const {
    std::vector<float> out;
    for (size_t e = 0; e < experts_.size(); ++e) {
      const auto y = Product(
          QuantizeActivations(Rows(mid, c_.width, c_.offsets[e], c_.offsets[e + 1]), c_.width),
          QuantizeWeights(experts_[e].down, c_.width, format_));
      out.insert(out.end(), y.begin(), y.end());
    }
    return out;
  }

  const ExpertCase& c_;
  const WeightFormat format_;
  std::vector<ExpertValues> experts_;
  std::vector<HostWeights> host_;
  std::vector<int32_t> x_row_, out_row_;
  std::vector<float> x_;    // [kTokens, hidden]
  std::vector<float> mid_;  // [rows, width] as it should be
};

TEST_P(IntGemmTest, ExpertsMatchTheRuleWithIndices) {
  for (const ExpertCase& c : kExpertCases) {
    const ExpertRun run(c, format());
    for (const OpConfig& config : IntegerConfigs()) {
      SCOPED_TRACE(testing::PrintToString(c.hidden) + " x " + testing::PrintToString(c.width));
      run.Check(config);
    }
  }
}

}  // namespace
}  // namespace moed::kernels
