#include <algorithm>
#include <limits>
#include <numeric>

#include "kernels/philox.h"
#include "tests/kernels/op_test_util.h"

namespace moed::kernels {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(PhiloxTest, AgreesWithTheKnownAnswersOfRandom123) {
  using Block = std::array<uint32_t, 4>;
  EXPECT_EQ(Philox4x32({0, 0, 0, 0}, {0, 0}),
            (Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox4x32({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}),
            (Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(PhiloxTest, UniformsStayBelowOneAndDependOnEveryInput) {
  const double u = UniformForToken(7, 1, 5);
  EXPECT_NE(u, UniformForToken(8, 1, 5));
  EXPECT_NE(u, UniformForToken(7 + (uint64_t{1} << 40), 1, 5));
  EXPECT_NE(u, UniformForToken(7, 2, 5));
  EXPECT_NE(u, UniformForToken(7, 1, 6));
  EXPECT_NE(u, UniformForToken(7, 1, 5 + (uint64_t{1} << 40)));
  for (uint64_t i = 0; i < 1000; ++i) {
    EXPECT_GE(UniformForToken(i, 0, i), 0.0);
    EXPECT_LT(UniformForToken(i, 0, i), 1.0);
  }
}

class SamplingTest : public testing::TestWithParam<OpConfig> {
 protected:
  /// Samples every row of logits [rows, vocabulary].
  static std::vector<SampleOutput> SampleAll(Backend& backend, const std::vector<float>& logits,
                                             const std::vector<SampleRow>& rows,
                                             int32_t num_valid_tokens) {
    const int64_t vocabulary = static_cast<int64_t>(logits.size() / rows.size());
    const Tensor in(backend, DType::kF32, vocabulary, logits);
    std::vector<SampleOutput> out(rows.size());
    backend.Sample({.logits = in.view(),
                    .num_valid_tokens = num_valid_tokens,
                    .rows = rows,
                    .out = std::span<SampleOutput>(out)});
    return out;
  }

  SampleOutput SampleOne(const std::vector<float>& logits, const SampleRow& row) {
    return SampleAll(*backend_, logits, {row}, static_cast<int32_t>(logits.size()))[0];
  }
  int32_t Greedy(const std::vector<float>& logits, SampleRow row = {}) {
    row.temperature = 0;
    return SampleOne(logits, row).token_id;
  }

  /// How often each token is drawn at positions 0, 1, ...
  std::vector<double> Frequencies(const std::vector<float>& logits, SampleRow row) {
    std::vector<float> all;
    std::vector<SampleRow> rows;
    const int num_draws = GetParam().device != "cpu" ? 1000 : MOED_SANITIZED ? 4000 : 40000;
    for (int i = 0; i < num_draws; ++i) {
      row.position = static_cast<uint64_t>(i);
      rows.push_back(row);
      all.insert(all.end(), logits.begin(), logits.end());
    }
    std::vector<double> counts(logits.size());
    const auto num_valid_tokens = static_cast<int32_t>(logits.size());
    for (const SampleOutput& out : SampleAll(*backend_, all, rows, num_valid_tokens)) {
      counts[out.token_id] += 1;
    }
    return counts;
  }

  std::unique_ptr<Backend> backend_ = MakeBackend(GetParam());
};

// Sampling does not depend on the activation dtype.
std::vector<OpConfig> SamplingConfigs() {
  std::vector<OpConfig> configs = AllConfigs();
  std::erase_if(configs,
                [](const OpConfig& c) { return c.dtype != DType::kF32 && c.device == "cpu"; });
  return configs;
}
INSTANTIATE_TEST_SUITE_P(All, SamplingTest, testing::ValuesIn(SamplingConfigs()), ConfigName);

std::vector<double> Softmax(const std::vector<float>& logits, double temperature) {
  std::vector<double> p;
  for (float x : logits) p.push_back(std::exp(x / temperature));
  const double sum = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& x : p) x /= sum;
  return p;
}

/// Chi-square of counts against probabilities; a token of probability 0 must not occur.
double ChiSquare(const std::vector<double>& counts, const std::vector<double>& p) {
  const double draws = std::accumulate(counts.begin(), counts.end(), 0.0);
  double sum = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    if (p[i] == 0) {
      EXPECT_EQ(counts[i], 0) << "token " << i;
      continue;
    }
    const double expected = draws * p[i];
    sum += (counts[i] - expected) * (counts[i] - expected) / expected;
  }
  return sum;
}

/// Zero outside `kept`, rescaled.
std::vector<double> Keep(std::vector<double> p, const std::vector<int32_t>& kept) {
  double sum = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    if (std::find(kept.begin(), kept.end(), static_cast<int32_t>(i)) == kept.end()) p[i] = 0;
    sum += p[i];
  }
  for (double& x : p) x /= sum;
  return p;
}

const std::vector<float> kLogits = {0.5f, 2.0f, -1.0f, 1.0f, 1.5f, 0.0f, -0.5f, 0.9f};
// The 99.99 % quantile of chi-square with 7 degrees of freedom.
constexpr double kChiSquareLimit = 29.9;

TEST_P(SamplingTest, DrawsFollowTheSoftmaxAtTheTemperature) {
  for (float temperature : {0.7f, 1.0f, 1.6f}) {
    const auto counts = Frequencies(kLogits, {.temperature = temperature, .seed = 11});
    EXPECT_LT(ChiSquare(counts, Softmax(kLogits, temperature)), kChiSquareLimit);
  }
}

TEST_P(SamplingTest, TopKDrawsFromTheKLikeliest) {
  const auto counts = Frequencies(kLogits, {.top_k = 3, .seed = 12});
  EXPECT_LT(ChiSquare(counts, Keep(Softmax(kLogits, 1), {1, 4, 3})), kChiSquareLimit);
}

TEST_P(SamplingTest, TopPDrawsFromTheSmallestSetThatReachesP) {
  // Sorted: 0.382 (1), 0.232 (4), 0.140 (3), 0.127 (7), ...
  const auto p = Softmax(kLogits, 1);
  ASSERT_LT(p[1] + p[4], 0.7);
  ASSERT_GT(p[1] + p[4] + p[3], 0.7);
  const auto counts = Frequencies(kLogits, {.top_p = 0.7f, .seed = 13});
  EXPECT_LT(ChiSquare(counts, Keep(p, {1, 4, 3})), kChiSquareLimit);
}

TEST_P(SamplingTest, TopPCountsProbabilitiesAmongTheTopK) {
  // Of the four likeliest, the first two hold 0.70 of the probability.
  const auto p = Softmax(kLogits, 1);
  ASSERT_GT((p[1] + p[4]) / (p[1] + p[4] + p[3] + p[7]), 0.69);
  const auto counts = Frequencies(kLogits, {.top_k = 4, .top_p = 0.69f, .seed = 14});
  EXPECT_LT(ChiSquare(counts, Keep(p, {1, 4})), kChiSquareLimit);
}

TEST_P(SamplingTest, MinPRemovesTokensFarLessLikelyThanTheLikeliest) {
  const auto counts = Frequencies(kLogits, {.min_p = 0.3f, .seed = 15});
  EXPECT_LT(ChiSquare(counts, Keep(Softmax(kLogits, 1), {1, 4, 3, 7})), kChiSquareLimit);
}

TEST_P(SamplingTest, TopPOfTiedTokensKeepsTheLowerIds) {
  const std::vector<float> logits(4000, 1.0f);  // more than the first guess at how many are needed
  for (int i = 0; i < 200; ++i) {
    const SampleRow row = {.top_p = 0.5f, .seed = 3, .position = static_cast<uint64_t>(i)};
    EXPECT_LE(SampleOne(logits, row).token_id, 2000);
  }
  EXPECT_EQ(SampleOne(logits, {.top_p = 0.0f, .seed = 3}).token_id, 0);
}

TEST_P(SamplingTest, LargeTopKAndTopPAgreeWithTheirMeaning) {
  const auto logits = RandomValues(20000, 5, DType::kF32);
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  std::vector<int32_t> rank(logits.size());
  for (size_t i = 0; i < order.size(); ++i) rank[order[i]] = static_cast<int32_t>(i);
  const auto p = Softmax(logits, 1);
  size_t needed = 0;
  for (double sum = 0; sum < 0.8; ++needed) sum += p[order[needed]];
  ASSERT_GT(needed, 1024u);
  int32_t worst_k = 0, worst_p = 0;
  const uint64_t num_draws = GetParam().device == "cpu" ? 300 : 100;
  for (uint64_t i = 0; i < num_draws; ++i) {
    const SampleRow by_k = {.temperature = 3, .top_k = 1500, .seed = 1, .position = i};
    const SampleRow by_p = {.top_p = 0.8f, .seed = 1, .position = i};
    worst_k = std::max(worst_k, rank[SampleOne(logits, by_k).token_id]);
    worst_p = std::max(worst_p, rank[SampleOne(logits, by_p).token_id]);
  }
  EXPECT_LT(worst_k, 1500);
  EXPECT_GT(worst_k, 1200);
  EXPECT_LE(worst_p, static_cast<int32_t>(needed));
  EXPECT_GT(worst_p, static_cast<int32_t>(needed * 3 / 4));
}

TEST_P(SamplingTest, TemperatureZeroTakesTheFirstOfTheLargest) {
  EXPECT_EQ(Greedy({1, 3, 2, 3, 3}), 1);
  EXPECT_EQ(Greedy({kNan, -5, kNan, -4}), 3);
  EXPECT_EQ(Greedy({0, kInfinity, kInfinity}), 1);
}

TEST_P(SamplingTest, ATinyTemperatureIsGreedy) {
  for (float temperature : {1e-3f, 1e-30f, 1e-42f}) {
    EXPECT_EQ(SampleOne(kLogits, {.temperature = temperature, .seed = 9}).token_id, 1);
    EXPECT_EQ(SampleOne(kLogits, {.temperature = temperature, .top_k = 4, .seed = 9}).token_id, 1);
    EXPECT_EQ(SampleOne(kLogits, {.temperature = temperature, .top_p = 0.9f}).token_id, 1);
  }
}

TEST_P(SamplingTest, AllowedAndBannedTokensLimitTheChoice) {
  const std::vector<int32_t> allowed = {2, 5, 6, 99, -1}, banned = {5, 1000, -3};
  EXPECT_EQ(Greedy(kLogits, {.allowed_token_ids = allowed}), 5);
  EXPECT_EQ(Greedy(kLogits, {.allowed_token_ids = allowed, .banned_token_ids = banned}), 6);
  const std::vector<int32_t> best = {1, 4};
  EXPECT_EQ(Greedy(kLogits, {.banned_token_ids = best}), 3);
}

TEST_P(SamplingTest, WithNothingLeftTheLowestPermittedTokenIsChosen) {
  const std::vector<float> nothing(6, kNan);
  const std::vector<int32_t> low = {0, 1}, some = {3, 4}, all = {0, 1, 2, 3, 4, 5};
  for (float temperature : {0.0f, 1.0f}) {
    SampleRow row = {.temperature = temperature};
    EXPECT_EQ(SampleOne(nothing, row).token_id, 0);
    row.banned_token_ids = low;
    EXPECT_EQ(SampleOne(nothing, row).token_id, 2);
    row.allowed_token_ids = some;
    EXPECT_EQ(SampleOne(nothing, row).token_id, 3);
    row.banned_token_ids = all;
    EXPECT_EQ(SampleOne(nothing, row).token_id, 0);
    row.num_top_logprobs = 2;
    EXPECT_EQ(SampleOne({1, 2, 3, 4, 5, 6}, row).token_id, 0);
  }
}

TEST_P(SamplingTest, LogitBiasIsAdded) {
  const std::vector<std::pair<int32_t, float>> bias = {{6, 3.0f}, {1, -0.1f}, {77, 100.0f}};
  EXPECT_EQ(Greedy(kLogits, {.logit_bias = bias}), 6);
}

TEST_P(SamplingTest, PenaltiesActOnCountedTokens) {
  // Repetition: 2.0 / 1.5 = 1.33 loses to 1.5.
  const std::vector<int32_t> best = {1}, both = {0, 1}, none = {0}, once = {1}, twice = {2};
  EXPECT_EQ(Greedy(kLogits,
                   {.repetition_penalty = 1.5f, .counted_token_ids = best, .output_counts = none}),
            4);
  // A negative logit is multiplied: -1 becomes -3 and loses to -2.
  const std::vector<int32_t> zeros = {0, 0};
  EXPECT_EQ(Greedy({-1, -2.5f, -2},
                   {.repetition_penalty = 3, .counted_token_ids = both, .output_counts = zeros}),
            2);
  // Presence and frequency look at the output only: a prompt token is not touched.
  for (const auto& [counts, expected] : {std::pair{none, 1}, {once, 1}, {twice, 4}}) {
    EXPECT_EQ(Greedy(kLogits, {.presence_penalty = 0.1f,
                               .frequency_penalty = 0.25f,
                               .counted_token_ids = best,
                               .output_counts = counts}),
              expected);
  }
}

TEST_P(SamplingTest, IdsWithoutATokenAreNeverChosen) {
  std::vector<float> logits = kLogits;
  logits.insert(logits.end(), {50, 60});
  for (float temperature : {0.0f, 5.0f}) {
    for (uint64_t i = 0; i < 100; ++i) {
      const SampleRow row = {.temperature = temperature, .position = i, .num_top_logprobs = 9};
      const SampleOutput out = SampleAll(*backend_, logits, {row}, 8)[0];
      EXPECT_LT(out.token_id, 8);
      EXPECT_EQ(out.top_logprobs.size(), 8u);
    }
  }
}

TEST_P(SamplingTest, LogprobsAreThoseOfTheUnmodifiedLogits) {
  const auto p = Softmax(kLogits, 1);
  const std::vector<int32_t> banned = {1};
  const SampleOutput out =
      SampleOne(kLogits, {.temperature = 0, .banned_token_ids = banned, .num_top_logprobs = 3});
  EXPECT_EQ(out.token_id, 4);
  EXPECT_NEAR(out.logprob, std::log(p[4]), 1e-5);
  ASSERT_EQ(out.top_logprobs.size(), 3u);
  const int32_t expected[] = {1, 4, 3};
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(out.top_logprobs[i].first, expected[i]);
    EXPECT_NEAR(out.top_logprobs[i].second, std::log(p[expected[i]]), 1e-5);
  }
  EXPECT_TRUE(SampleOne(kLogits, {.num_top_logprobs = -1}).top_logprobs.empty());
  EXPECT_LT(SampleOne(kLogits, {.num_top_logprobs = 0}).logprob, 0);
}

TEST_P(SamplingTest, ARowsTokenAndLogprobsAreTheSameInEveryCompanyAndOnAnyThreads) {
  const int64_t vocabulary = 5000;
  const auto logits = RandomValues(12 * vocabulary, 1, DType::kF32, 2);
  std::vector<SampleRow> rows;
  for (int i = 0; i < 12; ++i) {
    rows.push_back({.temperature = i % 4 == 0 ? 0.0f : 0.9f,
                    .top_k = i % 3 == 0 ? 40 : 0,
                    .top_p = i % 2 == 0 ? 0.9f : 1.0f,
                    .seed = 77,
                    .position = static_cast<uint64_t>(i),
                    .num_top_logprobs = 4});
  }
  for (int threads : ThreadCounts(GetParam())) {
    const auto backend = MakeBackend(GetParam(), threads);
    const auto all = SampleAll(*backend, logits, rows, vocabulary);
    for (int i = 0; i < 12; ++i) {
      const auto begin = logits.begin() + i * vocabulary;
      const SampleOutput alone = SampleOne({begin, begin + vocabulary}, rows[i]);
      EXPECT_EQ(all[i].token_id, alone.token_id);
      EXPECT_EQ(all[i].logprob, alone.logprob);
      EXPECT_EQ(all[i].top_logprobs, alone.top_logprobs);
    }
  }
}

TEST_P(SamplingTest, SeedSequenceAndPositionDecideTheDraw) {
  const std::vector<float> logits(1000, 0.0f);
  const SampleRow row = {.seed = 5, .sequence_index = 1, .position = 9};
  SampleRow other_seed = row, other_sequence = row, other_position = row;
  other_seed.seed = 6;
  other_sequence.sequence_index = 2;
  other_position.position = 10;
  const int32_t token = SampleOne(logits, row).token_id;
  EXPECT_EQ(SampleOne(logits, row).token_id, token);
  EXPECT_NE(SampleOne(logits, other_seed).token_id, token);
  EXPECT_NE(SampleOne(logits, other_sequence).token_id, token);
  EXPECT_NE(SampleOne(logits, other_position).token_id, token);
}

TEST_P(SamplingTest, NoRowsAreNoWork) {
  const Tensor in(*backend_, DType::kF32, 0, 10);
  backend_->Sample({.logits = in.view(), .num_valid_tokens = 10});
}

}  // namespace
}  // namespace moed::kernels
