#include "engine/moe/moe_layer.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/moe/moe_test_model.h"
#include "tests/engine/moe/placements.h"

namespace moed {
namespace {

/// out[n] = sum over k of w[n, k] * x[k].
std::vector<double> MatVec(const std::vector<float>& w, const std::vector<double>& x) {
  std::vector<double> out(w.size() / x.size(), 0.0);
  for (size_t n = 0; n < out.size(); ++n) {
    for (size_t k = 0; k < x.size(); ++k) out[n] += double{w[n * x.size() + k]} * x[k];
  }
  return out;
}

std::vector<double> Mlp(const std::vector<float>& gate, const std::vector<float>& up,
                        const std::vector<float>& down, const std::vector<double>& x) {
  std::vector<double> g = MatVec(gate, x);
  const std::vector<double> u = MatVec(up, x);
  for (size_t i = 0; i < g.size(); ++i) g[i] = g[i] / (1.0 + std::exp(-g[i])) * u[i];
  return MatVec(down, g);
}

std::vector<double> Softmax(std::vector<double> v) {
  double sum = 0;
  for (double& x : v) sum += x = std::exp(x);
  for (double& x : v) x /= sum;
  return v;
}

/// (expert, weight) of one token, best first.
std::vector<std::pair<int32_t, double>> ReferenceRoute(const ModelConfig& config,
                                                       const std::vector<double>& logits) {
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  order.resize(config.top_k);
  const bool after = config.router_scoring == RouterScoringKind::kTopKThenSoftmax;
  std::vector<double> chosen;
  const std::vector<double> all = Softmax(logits);
  for (const int32_t e : order) chosen.push_back(after ? logits[e] : all[e]);
  if (after) chosen = Softmax(chosen);
  const double sum = std::accumulate(chosen.begin(), chosen.end(), 0.0);
  std::vector<std::pair<int32_t, double>> out;
  for (size_t k = 0; k < order.size(); ++k) {
    out.emplace_back(order[k], config.norm_topk_prob ? chosen[k] / sum : chosen[k]);
  }
  return out;
}

void AddScaled(std::vector<double>& to, double scale, const std::vector<double>& from) {
  for (size_t i = 0; i < to.size(); ++i) to[i] += scale * from[i];
}

/// What one layer adds to the hidden state of a token with input x.
std::vector<double> ReferenceLayer(const MoeTestModel& model, const MoeTestLayer& layer,
                                   const std::vector<double>& x) {
  const ModelConfig& config = model.config;
  std::vector<double> out(x.size(), 0.0);
  for (const auto& [e, weight] : ReferenceRoute(config, MatVec(layer.router, x))) {
    AddScaled(out, weight, Mlp(layer.gate[e], layer.up[e], layer.down[e], x));
  }
  if (config.shared_intermediate_size > 0) {
    const double logit = config.shared_expert_gate ? MatVec(layer.shared_gate, x)[0] : 0;
    const double gate = config.shared_expert_gate ? 1.0 / (1.0 + std::exp(-logit)) : 1.0;
    AddScaled(out, gate, Mlp(layer.shared_gate_proj, layer.shared_up, layer.shared_down, x));
  }
  return out;
}

/// The hidden states after all layers; every layer reads the same x.
std::vector<float> Reference(const MoeTestRun& run) {
  const int64_t h = run.model->config.hidden_size;
  std::vector<float> out = run.hidden;
  for (size_t t = 0; t < out.size() / h; ++t) {
    const std::vector<double> x(run.x.begin() + t * h, run.x.begin() + (t + 1) * h);
    for (const MoeTestLayer& layer : run.model->layers) {
      const std::vector<double> add = ReferenceLayer(*run.model, layer, x);
      for (int64_t i = 0; i < h; ++i) {
        out[t * h + i] += static_cast<float>(run.model->config.residual_multiplier * add[i]);
      }
    }
  }
  return out;
}

/// |a - b| / |b|, Euclidean, of what the layers added.
double RelativeError(const MoeTestRun& run, const std::vector<float>& a,
                     const std::vector<float>& b) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    error += std::pow(double{a[i]} - b[i], 2);
    norm += std::pow(double{b[i]} - run.hidden[i], 2);
  }
  return std::sqrt(error / norm);
}

std::vector<ModelConfig> AllKindsOfModels() {
  std::vector<ModelConfig> out;
  for (const auto& change : std::vector<std::function<void(ModelConfig&)>>{
           [](ModelConfig&) {},
           [](ModelConfig& c) { c.norm_topk_prob = true; },
           [](ModelConfig& c) { c.router_scoring = RouterScoringKind::kTopKThenSoftmax; },
           [](ModelConfig& c) { c.shared_intermediate_size = 56; },
           [](ModelConfig& c) {
             c.shared_intermediate_size = 56;
             c.shared_expert_gate = true;
           },
           [](ModelConfig& c) {
             c.residual_multiplier = 0.22;
             c.shared_intermediate_size = 8;
           },
           [](ModelConfig& c) { c.top_k = c.num_experts; },
           [](ModelConfig& c) { c.top_k = 1; },
       }) {
    out.push_back(SmallMoeConfig());
    change(out.back());
  }
  return out;
}

TEST(MoeLayerTest, AddsWhatAPlainReferenceAddsForEveryKindOfModel) {
  const std::vector<ModelConfig> configs = AllKindsOfModels();
  for (size_t i = 0; i < configs.size(); ++i) {
    const MoeTestModel model = MakeMoeTestModel(configs[i]);
    for (const int32_t num_ranks : {1, 3}) {
      const ExpertPlacement placement = ExpertPlacement::Linear(2, 10, num_ranks);
      std::vector<int32_t> counts(num_ranks, 5);
      for (const auto& [dtype, tolerance] : {std::pair(DType::kF32, 1e-5), {DType::kBF16, 1e-2}}) {
        const MoeTestRun run = MakeRun(model, placement, counts, dtype);
        const MoeTestOutcome outcome = RunMoe(run);
        ExpectAllOk(outcome);
        EXPECT_LT(RelativeError(run, outcome.hidden, Reference(run)), tolerance)
            << "model " << i << ", " << num_ranks << " ranks, " << Name(dtype);
      }
    }
  }
}

/// Twelve tokens over 1 to 4 ranks, in every kind of split.
const std::vector<std::vector<int32_t>> kSplits = {
    {12},      {6, 6},     {12, 0},   {0, 12},      {1, 11},
    {4, 4, 4}, {0, 0, 12}, {7, 0, 5}, {3, 3, 3, 3}, {0, 1, 0, 11}};

std::vector<ExpertPlacement> PlacementsFor(int32_t num_ranks) {
  std::vector<ExpertPlacement> out = {ExpertPlacement::Linear(2, 10, num_ranks),
                                      ExpertPlacement::RoundRobin(2, 10, num_ranks),
                                      RandomPlacement(num_ranks, 2, 10, num_ranks),
                                      RandomPlacement(num_ranks + 100, 2, 10, num_ranks)};
  std::vector<int32_t> shuffled = {7, 2, 9, 0, 4, 1, 8, 3, 6, 5};
  std::vector<std::vector<int32_t>> all(num_ranks, shuffled);  // every expert on every rank
  out.push_back(out[0]);
  out.back().layers = {MakeLayer(all), MakeLayer(all)};
  std::fill(all.begin(), all.end() - 1,
            std::vector<int32_t>());  // the last rank has all the experts
  out.push_back(out[0]);
  out.back().layers = {MakeLayer(all), out[1].layers[0]};
  return out;
}

class MoeLayerInvarianceTest : public testing::TestWithParam<DType> {};

TEST_P(MoeLayerInvarianceTest, RanksPlacementsReplicasAndTheSplitOfTokensChangeNoBit) {
  ModelConfig config = SmallMoeConfig();
  config.shared_intermediate_size = 16;
  config.shared_expert_gate = true;
  config.residual_multiplier = 0.7;
  const MoeTestModel model = MakeMoeTestModel(config);
  const MoeTestOutcome expected =
      RunMoe(MakeRun(model, ExpertPlacement::Linear(2, 10, 1), {12}, GetParam()));
  ExpectAllOk(expected);
  for (const std::vector<int32_t>& split : kSplits) {
    for (const ExpertPlacement& placement : PlacementsFor(static_cast<int32_t>(split.size()))) {
      ASSERT_TRUE(placement.Validate().ok()) << placement.Validate();
      MoeTestRun run = MakeRun(model, placement, split, GetParam());
      run.num_threads = split[0] % 2 + 1;
      const MoeTestOutcome outcome = RunMoe(run);
      ExpectAllOk(outcome);
      ASSERT_EQ(outcome.hidden, expected.hidden) << testing::PrintToString(split);
    }
  }
}

TEST_P(MoeLayerInvarianceTest, ATokenAloneGetsTheBitsItGetsInABatch) {
  const MoeTestModel model = MakeMoeTestModel(SmallMoeConfig());
  const ExpertPlacement placement = RandomPlacement(3, 2, 10, 2);
  const MoeTestRun batch = MakeRun(model, placement, {10, 6}, GetParam());
  const MoeTestOutcome together = RunMoe(batch);
  ExpectAllOk(together);
  const int64_t h = model.config.hidden_size;
  for (const int64_t token : {0, 9, 15}) {
    MoeTestRun alone = MakeRun(model, placement, {1, 0}, GetParam());
    alone.x.assign(batch.x.begin() + token * h, batch.x.begin() + (token + 1) * h);
    alone.hidden.assign(batch.hidden.begin() + token * h, batch.hidden.begin() + (token + 1) * h);
    const MoeTestOutcome outcome = RunMoe(alone);
    ExpectAllOk(outcome);
    EXPECT_EQ(outcome.hidden, std::vector<float>(together.hidden.begin() + token * h,
                                                 together.hidden.begin() + (token + 1) * h));
  }
}

INSTANTIATE_TEST_SUITE_P(DTypes, MoeLayerInvarianceTest, testing::Values(DType::kF32, DType::kBF16),
                         [](const auto& info) { return std::string(Name(info.param)); });

TEST(MoeLayerTest, AStepWithoutAnyTokenIsNothing) {
  const MoeTestModel model = MakeMoeTestModel(SmallMoeConfig());
  const MoeTestRun run = MakeRun(model, ExpertPlacement::Linear(2, 10, 3), {0, 0, 0}, DType::kF32);
  const MoeTestOutcome outcome = RunMoe(run);
  ExpectAllOk(outcome);
  EXPECT_EQ(outcome.results[1].num_expert_rows, 0);
}

}  // namespace
}  // namespace moed
