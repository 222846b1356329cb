#include <algorithm>
#include <limits>
#include <numeric>

#include "tests/kernels/op_test_util.h"

namespace moed::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

class MoeOpsTest : public testing::TestWithParam<OpConfig> {
 protected:
  DType dtype() const { return GetParam().dtype; }
  float tolerance() const { return ToleranceOf(dtype()).activation_output; }

  std::unique_ptr<Backend> backend_ = MakeBackend(GetParam());
};

INSTANTIATE_TEST_SUITE_P(All, MoeOpsTest, testing::ValuesIn(AllConfigs()), ConfigName);

// ---- RmsNorm ----

std::vector<uint8_t> Norm(Backend& backend, const std::vector<float>& x,
                          const std::vector<float>& weight, std::vector<float>* values = nullptr) {
  const int64_t n = static_cast<int64_t>(weight.size());
  const Tensor in(backend, DType::kF32, n, x), w(backend, DType::kF32, n, weight);
  const Tensor out(backend, backend.activation_dtype(), in.view().rows, n);
  backend.RmsNorm(in.view(), w.data<float>(), 1e-5f, out.view());
  if (values != nullptr) *values = out.values();
  return out.bytes();
}

TEST_P(MoeOpsTest, RmsNormMatchesTheReference) {
  for (int64_t n : {1, 3, 24, 96, 1000, 2048}) {
    for (int64_t rows : {0, 1, 7}) {
      const auto x = RandomValues(rows * n, 1, DType::kF32, 3), w = RandomValues(n, 2, DType::kF32);
      std::vector<float> got, expected;
      Norm(*backend_, x, w, &got);
      for (int64_t r = 0; r < rows; ++r) {
        double square = 0;
        for (int64_t i = 0; i < n; ++i) square += static_cast<double>(x[r * n + i]) * x[r * n + i];
        const double scale = 1.0 / std::sqrt(square / static_cast<double>(n) + 1e-5);
        for (int64_t i = 0; i < n; ++i) {
          expected.push_back(static_cast<float>(x[r * n + i] * scale * w[i]));
        }
      }
      ExpectClose(got, expected, tolerance(), "norm of " + std::to_string(n));
    }
  }
}

TEST_P(MoeOpsTest, ARowIsNormalisedWithTheSameBitsInEveryCompanyAndOnAnyThreads) {
  const int64_t n = 333;
  const auto x = RandomValues(200 * n, 1, DType::kF32), w = RandomValues(n, 2, DType::kF32);
  const auto alone = Norm(*backend_, {x.end() - n, x.end()}, w);
  for (int threads : ThreadCounts(GetParam())) {
    const auto backend = MakeBackend(GetParam(), threads);
    for (int64_t rows : {2, 64, 200}) {
      const auto all = Norm(*backend, {x.end() - rows * n, x.end()}, w);
      EXPECT_TRUE(std::equal(alone.begin(), alone.end(), all.end() - alone.size()));
    }
  }
}

// ---- Route ----

struct Routing {
  std::vector<int32_t> ids;
  std::vector<float> weights;
};

struct RouteCase {
  int64_t num_experts;
  int32_t top_k;
  RouterScoring scoring;
  bool renormalize;
};

Routing RouteRows(Backend& backend, const RouteCase& c, const std::vector<float>& logits) {
  const Tensor in(backend, DType::kF32, c.num_experts, logits);
  const int64_t rows = in.view().rows;
  const IntArray ids(backend, std::vector<int32_t>(rows * c.top_k, -7));
  const Tensor weights(backend, DType::kF32, rows, c.top_k);
  backend.Route({.logits = in.view(),
                 .top_k = c.top_k,
                 .scoring = c.scoring,
                 .renormalize = c.renormalize,
                 .topk_ids = ids.data(),
                 .topk_weights = weights.data<float>()});
  Routing out{.ids = std::vector<int32_t>(rows * c.top_k), .weights = weights.values()};
  backend.CopyToHost(out.ids.data(), ids.data(), static_cast<int64_t>(out.ids.size()) * 4);
  return out;
}

/// One row in double.
Routing ReferenceRoute(const RouteCase& c, const std::vector<float>& logits) {
  std::vector<int32_t> order(c.num_experts);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  double all = 0, chosen = 0;
  auto e = [&](int32_t id) { return std::exp(static_cast<double>(logits[id]) - logits[order[0]]); };
  for (int32_t id : order) all += e(id);
  order.resize(c.top_k);
  for (int32_t id : order) chosen += e(id);
  const bool over_chosen = c.renormalize || c.scoring == RouterScoring::kTopKThenSoftmax;
  Routing out{.ids = order, .weights = {}};
  for (int32_t id : order) {
    out.weights.push_back(static_cast<float>(e(id) / (over_chosen ? chosen : all)));
  }
  return out;
}

TEST_P(MoeOpsTest, RouteMatchesTheReferenceAndTiesGoToTheLowerId) {
  for (int64_t num_experts : {1, 5, 16, 64, 130}) {
    for (int32_t top_k : {1, 2, 5, 8}) {
      for (int flags = 0; flags < 4 && top_k <= num_experts; ++flags) {
        const RouteCase c = {
            num_experts, top_k,
            flags & 1 ? RouterScoring::kTopKThenSoftmax : RouterScoring::kSoftmaxThenTopK,
            (flags & 2) != 0};
        auto logits = RandomValues(20 * num_experts, 1, DType::kF32, 2);
        for (float& x : logits) x = std::round(x * 2) / 2;  // many ties
        const Routing got = RouteRows(*backend_, c, logits);
        Routing expected;
        for (int64_t row = 0; row < 20; ++row) {
          const auto begin = logits.begin() + row * num_experts;
          const Routing one = ReferenceRoute(c, {begin, begin + num_experts});
          expected.ids.insert(expected.ids.end(), one.ids.begin(), one.ids.end());
          expected.weights.insert(expected.weights.end(), one.weights.begin(), one.weights.end());
        }
        ASSERT_EQ(got.ids, expected.ids) << num_experts << " experts, top " << top_k;
        ExpectClose(got.weights, expected.weights, ToleranceOf(DType::kF32).f32_output, "weights");
      }
    }
  }
}

TEST_P(MoeOpsTest, RouteSurvivesLogitsThatAreNotNumbers) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (RouterScoring scoring : {RouterScoring::kSoftmaxThenTopK, RouterScoring::kTopKThenSoftmax}) {
    const RouteCase c = {4, 3, scoring, true};
    const Routing got = RouteRows(*backend_, c,
                                  {nan, nan, nan, nan,             //
                                   nan, 1, nan, 2,                 //
                                   kInfinity, 0, nan, -kInfinity,  //
                                   -kInfinity, -kInfinity, -kInfinity, -kInfinity});
    EXPECT_EQ(got.ids, (std::vector<int32_t>{0, 1, 2, 3, 1, 0, 0, 1, 2, 0, 1, 2}));
    for (float w : got.weights) EXPECT_TRUE(w >= 0 && w <= 1) << w;
  }
}

TEST_P(MoeOpsTest, ARowIsRoutedWithTheSameBitsInEveryCompany) {
  const RouteCase c = {64, 8, RouterScoring::kSoftmaxThenTopK, true};
  const auto logits = RandomValues(300 * 64, 1, DType::kF32);
  const Routing alone = RouteRows(*backend_, c, {logits.end() - 64, logits.end()});
  const auto backend = MakeBackend(GetParam(), 2);
  const Routing all = RouteRows(*backend, c, logits);
  EXPECT_TRUE(std::equal(alone.ids.begin(), alone.ids.end(), all.ids.end() - 8));
  EXPECT_TRUE(std::equal(alone.weights.begin(), alone.weights.end(), all.weights.end() - 8));
}

// ---- GatherRows, Combine, AddRows ----

// ---- PlanExperts ----

struct ExpertsPlan {
  std::vector<int32_t> offsets, x_row, out_row, tokens_per_expert;
};

struct PlanCase {
  int64_t num_tokens;
  int32_t top_k, num_experts, num_slots, num_counted;
};

/// Distinct experts of each token, some of them much wanted.
std::vector<int32_t> RandomTopk(const PlanCase& c) {
  std::mt19937 random(5);
  std::vector<int32_t> ids, experts(c.num_experts);
  for (int64_t t = 0; t < c.num_tokens; ++t) {
    std::iota(experts.begin(), experts.end(), 0);
    const int64_t wanted = t % 3 == 0 ? c.num_experts : std::max(c.top_k, c.num_experts / 2);
    std::shuffle(experts.begin(), experts.begin() + wanted, random);
    ids.insert(ids.end(), experts.begin(), experts.begin() + c.top_k);
  }
  return ids;
}

/// Expert e is computed in slot num_slots - 1 - e: those before have no rows.
ExpertsPlan ReferencePlan(const PlanCase& c, const std::vector<int32_t>& ids) {
  ExpertsPlan plan{.offsets = {0}, .tokens_per_expert = std::vector<int32_t>(c.num_experts)};
  for (int32_t slot = 0; slot < c.num_slots; ++slot) {
    for (size_t i = 0; i < ids.size(); ++i) {
      if (c.num_slots - 1 - ids[i] != slot) continue;
      plan.x_row.push_back(static_cast<int32_t>(i) / c.top_k);
      plan.out_row.push_back(static_cast<int32_t>(i));
      plan.tokens_per_expert[ids[i]] += plan.x_row.back() < c.num_counted;
    }
    plan.offsets.push_back(static_cast<int32_t>(plan.x_row.size()));
  }
  return plan;
}

ExpertsPlan PlanOn(Backend& backend, const PlanCase& c, const std::vector<int32_t>& ids) {
  const std::vector<int32_t> poison(ids.size() + c.num_slots + 1, -7);
  std::vector<int32_t> slots(c.num_experts);
  for (int32_t e = 0; e < c.num_experts; ++e) slots[e] = c.num_slots - 1 - e;
  const IntArray topk(backend, ids), slot_of_expert(backend, slots), x_row(backend, poison);
  const IntArray out_row(backend, poison), offsets(backend, poison), counts(backend, slots);
  const IntArray counted(backend, {c.num_counted});
  backend.PlanExperts(
      {.topk_ids = topk.data(),
       .num_tokens = c.num_tokens,
       .top_k = c.top_k,
       .num_experts = c.num_experts,
       .slot_of_expert = slot_of_expert.data(),
       .num_slots = c.num_slots,
       .num_counted_tokens = c.num_counted < c.num_tokens ? counted.data() : nullptr,
       .expert_offsets = offsets.data(),
       .x_row = x_row.data(),
       .out_row = out_row.data(),
       .tokens_per_expert = counts.data()});
  ExpertsPlan plan{std::vector<int32_t>(c.num_slots + 1), std::vector<int32_t>(ids.size()),
                   std::vector<int32_t>(ids.size()), std::vector<int32_t>(c.num_experts)};
  const auto read = [&backend](std::vector<int32_t>& to, const IntArray& from) {
    backend.CopyToHost(to.data(), from.data(), static_cast<int64_t>(to.size()) * 4);
  };
  read(plan.offsets, offsets);
  read(plan.x_row, x_row);
  read(plan.out_row, out_row);
  read(plan.tokens_per_expert, counts);
  return plan;
}

TEST_P(MoeOpsTest, PlanExpertsGroupsRowsBySlotInTheOrderOfTokens) {
  for (const PlanCase& c : {PlanCase{1, 1, 1, 1, 1},
                            {1, 8, 128, 128, 1},
                            {5, 3, 10, 12, 4},
                            {33, 8, 60, 64, 33},
                            {300, 6, 40, 40, 291},
                            {70, 4, 300, 900, 70}}) {
    const std::vector<int32_t> ids = RandomTopk(c);
    const ExpertsPlan got = PlanOn(*backend_, c, ids), expected = ReferencePlan(c, ids);
    EXPECT_EQ(got.offsets, expected.offsets) << c.num_tokens;
    EXPECT_EQ(got.x_row, expected.x_row) << c.num_tokens;
    EXPECT_EQ(got.out_row, expected.out_row) << c.num_tokens;
    EXPECT_EQ(got.tokens_per_expert, expected.tokens_per_expert) << c.num_tokens;
  }
}

TEST_P(MoeOpsTest, PlanExpertsCountsTheTokensThatItIsToldTo) {
  const std::vector<int32_t> ids = {0, 1, 1, 2, 2, 0, 0, 2}, slots = {0, 1, 2};
  const IntArray topk(*backend_, ids), slot_of_expert(*backend_, slots), counts(*backend_, slots);
  const IntArray rows(*backend_, ids), places(*backend_, ids), offsets(*backend_, ids);
  backend_->PlanExperts({.topk_ids = topk.data(),
                         .num_tokens = 4,
                         .top_k = 2,
                         .num_experts = 3,
                         .slot_of_expert = slot_of_expert.data(),
                         .num_slots = 3,
                         .counted_begin = 1,
                         .counted_end = 3,
                         .expert_offsets = offsets.data(),
                         .x_row = rows.data(),
                         .out_row = places.data(),
                         .tokens_per_expert = counts.data()});
  std::vector<int32_t> counted(3), all(4);
  backend_->CopyToHost(counted.data(), counts.data(), 12);
  backend_->CopyToHost(all.data(), offsets.data(), 16);
  EXPECT_EQ(counted, (std::vector<int32_t>{1, 1, 2}));
  EXPECT_EQ(all, (std::vector<int32_t>{0, 3, 5, 8}));
}

TEST_P(MoeOpsTest, LocateRowsFindsEachChoiceInTheBlockOfItsExpert) {
  const int32_t top_k = 3, num_experts = 7, block_rows = 2000;
  std::vector<int32_t> ids, blocks = {0, 3, 1, 2, 0, 1, 3}, got(600), expected;
  for (int32_t i = 0; i < 600; ++i) {
    ids.push_back(i * 5 % num_experts);
    expected.push_back(blocks[ids.back()] * block_rows + i);
  }
  const IntArray topk(*backend_, ids), block_of_expert(*backend_, blocks), row_of(*backend_, got);
  backend_->LocateRows({.topk_ids = topk.data(),
                        .num_tokens = 200,
                        .top_k = top_k,
                        .block_of_expert = block_of_expert.data(),
                        .block_rows = block_rows,
                        .row_of = row_of.data()});
  backend_->CopyToHost(got.data(), row_of.data(), 600 * 4);
  EXPECT_EQ(got, expected);
}

TEST_P(MoeOpsTest, GatherRowsCopiesRowsOfAnyType) {
  for (DType type : {DType::kBF16, DType::kF32}) {
    const Tensor src(*backend_, type, 33, RandomValues(10 * 33, 1, type));
    const std::vector<int32_t> index = {9, 0, 0, 4};
    const IntArray rows(*backend_, index);
    const Tensor out(*backend_, type, 4, 33);
    backend_->GatherRows({.src = src.view(), .row_index = rows.data(), .out = out.view()});
    for (int64_t i = 0; i < 4; ++i) EXPECT_EQ(out.row_bytes(i), src.row_bytes(index[i]));
  }
}

struct CombineInput {
  int64_t hidden;
  int32_t top_k;
  std::vector<float> rows;      // [20, hidden]
  std::vector<int32_t> row_of;  // [tokens, top_k]
  std::vector<float> weights, before;
};

CombineInput MakeCombineInput(int64_t tokens, int64_t hidden, int32_t top_k, DType dtype) {
  CombineInput in{.hidden = hidden,
                  .top_k = top_k,
                  .rows = RandomValues(20 * hidden, 1, dtype),
                  .row_of = {},
                  .weights = RandomValues(tokens * top_k, 2, DType::kF32),
                  .before = RandomValues(tokens * hidden, 3, DType::kF32)};
  for (int64_t i = 0; i < tokens * top_k; ++i) {
    in.row_of.push_back(static_cast<int32_t>(i * 7 % 20));
  }
  return in;
}

std::vector<uint8_t> RunCombine(Backend& backend, const CombineInput& in,
                                std::vector<float>* values = nullptr) {
  const Tensor rows(backend, backend.activation_dtype(), in.hidden, in.rows);
  const Tensor weights(backend, DType::kF32, in.top_k, in.weights);
  const Tensor hidden(backend, DType::kF32, in.hidden, in.before);
  const IntArray row_of(backend, in.row_of);
  backend.Combine({.rows = rows.view(),
                   .row_of = row_of.data(),
                   .topk_weights = weights.data<float>(),
                   .top_k = in.top_k,
                   .scale = 0.22f,
                   .hidden = hidden.view()});
  if (values != nullptr) *values = hidden.values();
  return hidden.bytes();
}

TEST_P(MoeOpsTest, CombineAddsTheWeightedSumOfATokensRows) {
  for (int64_t hidden : {1, 96, 130}) {
    for (int32_t top_k : {1, 2, 8}) {
      const CombineInput in = MakeCombineInput(11, hidden, top_k, dtype());
      std::vector<float> got, expected = in.before;
      RunCombine(*backend_, in, &got);
      for (size_t i = 0; i < in.row_of.size(); ++i) {
        for (int64_t c = 0; c < hidden; ++c) {
          expected[i / top_k * hidden + c] +=
              0.22f * in.weights[i] * in.rows[in.row_of[i] * hidden + c];
        }
      }
      ExpectClose(got, expected, ToleranceOf(DType::kF32).f32_output, "combine");
    }
  }
}

TEST_P(MoeOpsTest, ATokenIsCombinedWithTheSameBitsInEveryCompany) {
  const CombineInput all = MakeCombineInput(64, 96, 8, dtype());
  CombineInput one = all;
  one.row_of.assign(all.row_of.end() - 8, all.row_of.end());
  one.weights.assign(all.weights.end() - 8, all.weights.end());
  one.before.assign(all.before.end() - 96, all.before.end());
  const auto alone = RunCombine(*backend_, one);
  for (int threads : ThreadCounts(GetParam())) {
    const auto backend = MakeBackend(GetParam(), threads);
    const auto bytes = RunCombine(*backend, all);
    EXPECT_TRUE(std::equal(alone.begin(), alone.end(), bytes.end() - alone.size()));
  }
}

TEST_P(MoeOpsTest, AddRowsScalesByTheSigmoidOfTheGate) {
  const int64_t n = 50, tokens = 6;
  const auto rows = RandomValues(tokens * n, 1, dtype()),
             before = RandomValues(tokens * n, 2, DType::kF32);
  const std::vector<float> gates = {-200, -1.5f, 0, 0.3f, 4, 200};
  const Tensor in(*backend_, dtype(), n, rows), logits(*backend_, DType::kF32, 1, gates);
  for (const float* gate : {static_cast<const float*>(nullptr), logits.data<const float>()}) {
    const Tensor hidden(*backend_, DType::kF32, n, before);
    backend_->AddRows(
        {.rows = in.view(), .gate_logits = gate, .scale = 0.5f, .hidden = hidden.view()});
    std::vector<float> expected = before;
    for (int64_t i = 0; i < tokens * n; ++i) {
      const double g = gate == nullptr ? 1 : 1 / (1 + std::exp(-static_cast<double>(gates[i / n])));
      expected[i] += static_cast<float>(0.5 * g * rows[i]);
    }
    ExpectClose(hidden.values(), expected, ToleranceOf(DType::kF32).f32_output, "add rows");
  }
}

}  // namespace
}  // namespace moed::kernels
