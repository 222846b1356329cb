#include <algorithm>
#include <cstring>
#include <set>
#include <string>

#include "engine/moe/crossover.h"
#include "engine/moe/moe_layer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/moe/moe_test_model.h"
#include "tests/engine/moe/placements.h"

namespace moed {
namespace {

using ::testing::HasSubstr;

/// Passes everything on, and lets a test change what arrives or fail on the way.
class ForwardingCommunicator : public Communicator {
 public:
  explicit ForwardingCommunicator(std::unique_ptr<Communicator> inner)
      : inner_(std::move(inner)), rank_(inner_->rank()), num_ranks_(inner_->num_ranks()) {}

  int32_t rank() const override { return rank_; }
  int32_t num_ranks() const override { return num_ranks_; }
  absl::Status AllGatherV(const void* send, std::span<const int64_t> bytes_per_rank, void* recv,
                          const CollectiveTag& tag) override {
    return inner_->AllGatherV(send, bytes_per_rank, recv, tag);
  }
  absl::Status AllToAllV(const void* send, std::span<const int64_t> send_bytes, void* recv,
                         std::span<const int64_t> recv_bytes, const CollectiveTag& tag) override {
    return inner_->AllToAllV(send, send_bytes, recv, recv_bytes, tag);
  }
  absl::Status AllGather(std::span<const GatherPart> parts, const CollectiveTag& tag) override {
    return inner_->AllGather(parts, tag);
  }
  absl::Status Barrier(const CollectiveTag& tag) override { return inner_->Barrier(tag); }
  absl::Status Finish(const CollectiveTag& tag) override { return inner_->Finish(tag); }
  double wait_seconds() const override { return inner_ == nullptr ? 0 : inner_->wait_seconds(); }

 protected:
  std::unique_ptr<Communicator> inner_;

 private:
  const int32_t rank_;
  const int32_t num_ranks_;
};

/// Keeps the topk_ids of every layer, as they arrive, and may replace one of them.
class IdsCommunicator final : public ForwardingCommunicator {
 public:
  IdsCommunicator(std::unique_ptr<Communicator> inner, std::vector<std::vector<int32_t>>& ids,
                  std::optional<std::pair<size_t, int32_t>> replace)
      : ForwardingCommunicator(std::move(inner)), ids_(ids), replace_(replace) {}

  absl::Status AllGatherV(const void* send, std::span<const int64_t> bytes_per_rank, void* recv,
                          const CollectiveTag& tag) override {
    absl::Status status = ForwardingCommunicator::AllGatherV(send, bytes_per_rank, recv, tag);
    EXPECT_EQ(tag.phase, "route");
    const std::span<int32_t> ids(static_cast<int32_t*>(recv), NumIds(bytes_per_rank));
    if (replace_) ids[replace_->first] = replace_->second;
    if (rank() == 0) ids_.emplace_back(ids.begin(), ids.end());
    return status;
  }

 private:
  static size_t NumIds(std::span<const int64_t> bytes) {
    return static_cast<size_t>(std::accumulate(bytes.begin(), bytes.end(), int64_t{0})) /
           sizeof(int32_t);
  }

  std::vector<std::vector<int32_t>>& ids_;
  const std::optional<std::pair<size_t, int32_t>> replace_;
};

/// Dies when it should send expert outputs home.
class DyingCommunicator final : public ForwardingCommunicator {
 public:
  using ForwardingCommunicator::ForwardingCommunicator;

  absl::Status AllToAllV(const void* send, std::span<const int64_t> send_bytes, void* recv,
                         std::span<const int64_t> recv_bytes, const CollectiveTag& tag) override {
    if (tag.phase != "combine") {
      return ForwardingCommunicator::AllToAllV(send, send_bytes, recv, recv_bytes, tag);
    }
    inner_.reset();
    return absl::UnavailableError("killed by the test");
  }
};

/// What one rank sends in one layer, counted from the routing alone; a placement without replicas.
struct Traffic {
  int64_t dispatch_rows = 0;
  int64_t combine_rows = 0;
  int64_t expert_rows = 0;
};

Traffic CountTraffic(const MoeTestRun& run, size_t layer, const std::vector<int32_t>& ids,
                     int32_t rank) {
  const ExpertPlacement::Layer& placement = run.placement.layers[layer];
  std::vector<int32_t> rank_of(run.placement.num_experts, -1);
  for (int32_t r = 0; r < run.placement.num_ranks; ++r) {
    for (int32_t s = placement.rank_slot_begin[r]; s < placement.rank_slot_begin[r + 1]; ++s) {
      rank_of[placement.slot_to_expert[s]] = r;
    }
  }
  Traffic traffic;
  size_t next = 0;
  for (int32_t home = 0; home < run.placement.num_ranks; ++home) {
    for (int32_t t = 0; t < run.num_tokens_per_rank[home]; ++t) {
      std::set<int32_t> ranks;  // distinct ranks that compute for this token
      for (int64_t k = 0; k < run.model->config.top_k; ++k) {
        const int32_t r = rank_of[ids[next++]];
        ranks.insert(r);
        traffic.expert_rows += r == rank;
        traffic.combine_rows += r == rank && home != rank;
      }
      ranks.erase(home);
      if (home == rank) traffic.dispatch_rows += static_cast<int64_t>(ranks.size());
    }
  }
  return traffic;
}

TEST(MoeExchangeTest, CountersEqualTheFormulasOverTheRoutingExactly) {
  const MoeTestModel model = MakeMoeTestModel(SmallMoeConfig());
  const int64_t h = model.config.hidden_size, top_k = model.config.top_k;
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const MoeTestRun run =
        MakeRun(model, ExpertPlacement::RoundRobin(2, 10, 4), {9, 0, 13, 4}, dtype);
    std::vector<std::vector<int32_t>> ids;
    const MoeTestOutcome outcome = RunMoe(run, [&](std::unique_ptr<Communicator> inner) {
      return std::make_unique<IdsCommunicator>(std::move(inner), ids, std::nullopt);
    });
    ExpectAllOk(outcome);
    ASSERT_EQ(ids.size(), 2u);
    int64_t all_expert_rows = 0;
    for (int32_t rank = 0; rank < 4; ++rank) {
      const StepResult& result = outcome.results[rank];
      Traffic sum;
      for (size_t layer = 0; layer < 2; ++layer) {
        const Traffic traffic = CountTraffic(run, layer, ids[layer], rank);
        sum.dispatch_rows += traffic.dispatch_rows;
        sum.combine_rows += traffic.combine_rows;
        sum.expert_rows += traffic.expert_rows;
      }
      const int64_t row_bytes = h * static_cast<int64_t>(SizeBytes(dtype));
      const int64_t ids_bytes = 2 * 3 * run.num_tokens_per_rank[rank] * top_k * 4;
      EXPECT_EQ(result.dispatch_bytes, sum.dispatch_rows * row_bytes + ids_bytes) << rank;
      EXPECT_EQ(result.combine_bytes, sum.combine_rows * row_bytes) << rank;
      EXPECT_EQ(result.num_expert_rows, sum.expert_rows) << rank;
      all_expert_rows += result.num_expert_rows;
    }
    EXPECT_EQ(all_expert_rows, 2 * 26 * top_k);
  }
}

/// Everything that a step gives, whichever way its rows went.
void ExpectSameAnswer(const MoeTestOutcome& got, const MoeTestOutcome& expected) {
  ExpectAllOk(got);
  EXPECT_EQ(
      std::memcmp(got.hidden.data(), expected.hidden.data(), got.hidden.size() * sizeof(float)), 0);
  for (size_t rank = 0; rank < got.results.size(); ++rank) {
    EXPECT_EQ(got.results[rank].tokens_per_expert, expected.results[rank].tokens_per_expert);
  }
}

TEST(MoeExchangeTest, GatheringAllRowsGivesTheSameBitsAsSendingEach) {
  ModelConfig config = SmallMoeConfig();
  config.residual_multiplier = 0.22;
  config.shared_intermediate_size = 8;
  const MoeTestModel model = MakeMoeTestModel(config);
  ExpertPlacement replicated = ExpertPlacement::Linear(2, 10, 3);
  replicated.layers[1] = MakeLayer({{0, 1, 2, 9}, {3, 4, 5, 0}, {5, 6, 7, 8, 9}});
  ExpertPlacement empty_rank = ExpertPlacement::Linear(2, 10, 3);
  empty_rank.layers[0] = MakeLayer({{0, 1, 2, 3, 4}, {}, {5, 6, 7, 8, 9}});
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const ExpertPlacement& placement :
         {ExpertPlacement::RoundRobin(2, 10, 3), replicated, empty_rank}) {
      MoeTestRun run = MakeRun(model, placement, {9, 0, 4}, dtype);
      const MoeTestOutcome expected = RunMoe(run);
      ExpectAllOk(expected);
      for (const auto exchange : {ExchangeStrategy::kAllGather, ExchangeStrategy::kMeasured}) {
        run.exchange = exchange;
        ExpectSameAnswer(RunMoe(run), expected);
      }
    }
  }
}

TEST(MoeExchangeTest, ARankThatNeverHadATokenDoesNotCrowdTheFirstExpert) {
  ModelConfig config = SmallMoeConfig();
  config.num_experts = 4;
  config.top_k = 2;
  const MoeTestModel model = MakeMoeTestModel(config);
  MoeTestRun run = MakeRun(model, ExpertPlacement::Linear(2, 4, 4), {5, 0, 0, 0}, DType::kBF16);
  const MoeTestOutcome expected = RunMoe(run);
  ExpectAllOk(expected);
  run.exchange = ExchangeStrategy::kAllGather;
  ExpectSameAnswer(RunMoe(run), expected);
}

TEST(MoeExchangeTest, GatheringMakesTwoCallsOfSizesThatDoNotDependOnTheRouting) {
  const MoeTestModel model = MakeMoeTestModel(SmallMoeConfig());
  MoeTestRun run = MakeRun(model, ExpertPlacement::Linear(2, 10, 2), {7, 5}, DType::kBF16);
  run.exchange = ExchangeStrategy::kAllGather;
  std::vector<std::vector<int32_t>> ids;  // of calls that only the other way makes
  const MoeTestOutcome outcome = RunMoe(run, [&](std::unique_ptr<Communicator> inner) {
    return std::make_unique<IdsCommunicator>(std::move(inner), ids, std::nullopt);
  });
  ExpectAllOk(outcome);
  EXPECT_TRUE(ids.empty());
  int64_t rows = 0;
  for (const StepResult& result : outcome.results) {
    EXPECT_EQ(result.dispatch_bytes, 2 * 7 * (40 * 2 + 3 * 4));
    EXPECT_EQ(result.combine_bytes, 2 * 7 * 3 * 40 * 2);
    rows += result.num_expert_rows;
  }
  EXPECT_EQ(rows, 2 * 14 * 3);  // two of them for what rank 1 has fewer than rank 0
}

TEST(MoeExchangeTest, StepsOfManyTokensAreSentOneByOne) {
  const MoeTestModel model = MakeMoeTestModel(SmallMoeConfig());
  MoeTestRun run =
      MakeRun(model, ExpertPlacement::Linear(2, 10, 2), {kMaxGatherTokens + 1, 3}, DType::kBF16);
  const MoeTestOutcome expected = RunMoe(run);
  run.exchange = ExchangeStrategy::kAllGather;
  const MoeTestOutcome outcome = RunMoe(run);
  ExpectSameAnswer(outcome, expected);
  EXPECT_EQ(outcome.results[0].dispatch_bytes, expected.results[0].dispatch_bytes);
}

TEST(CrossoverTest, TheShareOfTokensSentIsThatOfUniformRouting) {
  EXPECT_NEAR(8 * ShareOfTokensSent(256, 8, 8), 5.29, 0.01);
  EXPECT_NEAR(4 * ShareOfTokensSent(128, 4, 4), 2.75, 0.01);
  EXPECT_EQ(ShareOfTokensSent(4, 4, 2), 1);
}

TEST(MoeExchangeTest, TokensPerExpertCountOwnTokensOfEveryLayer) {
  const MoeTestModel model = MakeMoeTestModel(SmallMoeConfig());
  const MoeTestRun run = MakeRun(model, ExpertPlacement::Linear(2, 10, 2), {7, 5}, DType::kF32);
  std::vector<std::vector<int32_t>> ids;
  const MoeTestOutcome outcome = RunMoe(run, [&](std::unique_ptr<Communicator> inner) {
    return std::make_unique<IdsCommunicator>(std::move(inner), ids, std::nullopt);
  });
  ExpectAllOk(outcome);
  for (int32_t rank = 0; rank < 2; ++rank) {
    std::vector<int32_t> expected(20, 0);
    for (size_t layer = 0; layer < 2; ++layer) {
      const auto begin = ids[layer].begin() + rank * 7 * 3;
      std::for_each(begin, begin + run.num_tokens_per_rank[rank] * 3,
                    [&](int32_t id) { ++expected[layer * 10 + id]; });
    }
    EXPECT_EQ(outcome.results[rank].tokens_per_expert, expected);
  }
}

TEST(MoeExchangeTest, OneRankSendsNothing) {
  const MoeTestModel model = MakeMoeTestModel(SmallMoeConfig());
  const MoeTestOutcome outcome =
      RunMoe(MakeRun(model, ExpertPlacement::Linear(2, 10, 1), {8}, DType::kBF16));
  ExpectAllOk(outcome);
  EXPECT_EQ(outcome.results[0].dispatch_bytes, 0);
  EXPECT_EQ(outcome.results[0].combine_bytes, 0);
  EXPECT_EQ(outcome.results[0].num_expert_rows, 2 * 8 * 3);
  EXPECT_EQ(outcome.results[0].times.dispatch_wait, 0);
}

TEST(MoeExchangeTest, WaitingIsAPartOfTheTimeOfItsStage) {
  const MoeTestModel model = MakeMoeTestModel(SmallMoeConfig());
  const MoeTestOutcome outcome =
      RunMoe(MakeRun(model, ExpertPlacement::Linear(2, 10, 3), {8, 8, 8}, DType::kF32));
  ExpectAllOk(outcome);
  for (const StepResult& result : outcome.results) {
    const StepTimes& times = result.times;
    EXPECT_GT(times.route, 0);
    EXPECT_GT(times.experts, 0);
    EXPECT_GE(times.dispatch, times.dispatch_wait);
    EXPECT_GE(times.combine, times.combine_wait);
    EXPECT_GT(times.dispatch_wait + times.combine_wait, 0);
  }
}

TEST(MoeExchangeTest, TheLargestExchangeFitsTheSegmentExactly) {
  ModelConfig config = SmallMoeConfig();
  config.top_k = config.num_experts;  // every token needs every slot of the other rank
  const MoeTestModel model = MakeMoeTestModel(config);
  MoeTestRun run = MakeRun(model, ExpertPlacement::Linear(2, 10, 2), {6, 6}, DType::kBF16);
  ExpectAllOk(RunMoe(run));
  run.segment_bytes_less = 1;
  const MoeTestOutcome outcome = RunMoe(run);
  EXPECT_FALSE(outcome.status[0].ok() || outcome.status[1].ok());
  EXPECT_TRUE(absl::IsInvalidArgument(outcome.status[0]) ||
              absl::IsInvalidArgument(outcome.status[1]));
}

TEST(MoeExchangeTest, ImpossibleIdsOfAPeerAreAnErrorOnEveryRank) {
  const MoeTestModel model = MakeMoeTestModel(SmallMoeConfig());
  const MoeTestRun run = MakeRun(model, ExpertPlacement::Linear(2, 10, 3), {2, 2, 2}, DType::kF32);
  for (const int32_t bad : {-1, 10, INT32_MAX}) {
    std::vector<std::vector<int32_t>> ids;
    const MoeTestOutcome outcome = RunMoe(run, [&](std::unique_ptr<Communicator> inner) {
      return std::make_unique<IdsCommunicator>(std::move(inner), ids, std::pair(size_t{7}, bad));
    });
    for (const absl::Status& status : outcome.status) {
      EXPECT_TRUE(absl::IsInternal(status)) << status;
      EXPECT_THAT(std::string(status.message()),
                  HasSubstr("token 0 of rank 1 chose expert " + std::to_string(bad)));
    }
  }
}

TEST(MoeExchangeTest, ARankThatDiesInALayerIsNamedByTheOthers) {
  const MoeTestModel model = MakeMoeTestModel(SmallMoeConfig());
  const MoeTestRun run = MakeRun(model, ExpertPlacement::Linear(2, 10, 3), {2, 2, 2}, DType::kF32);
  const MoeTestOutcome outcome =
      RunMoe(run, [](std::unique_ptr<Communicator> inner) -> std::unique_ptr<Communicator> {
        if (inner->rank() != 1) return inner;
        return std::make_unique<DyingCommunicator>(std::move(inner));
      });
  EXPECT_TRUE(absl::IsUnavailable(outcome.status[1]));
  for (const int32_t rank : {0, 2}) {
    EXPECT_TRUE(absl::IsAborted(outcome.status[rank])) << outcome.status[rank];
    EXPECT_THAT(std::string(outcome.status[rank].message()),
                testing::AllOf(HasSubstr("step 5, layer 0, combine"), HasSubstr("rank 1 left")));
  }
}

/// One layer of one rank, for inputs that do not fit.
class MoeLayerInputTest : public testing::Test {
 protected:
  MoeLayerInputTest()
      : model_(MakeMoeTestModel(SmallMoeConfig())),
        placement_(ExpertPlacement::Linear(2, 10, 1)),
        backend_(ValueOrDie(kernels::CreateBackend({.activation_dtype = DType::kF32}))),
        communicator_(CreateSingleRankCommunicator()),
        layer_(ValueOrDie(MoeLayer::Create(*backend_, *communicator_, model_.config, placement_,
                                           {.max_tokens_per_rank = 4}))),
        weights_(LoadTestLayer(*backend_, model_, 0, placement_.layers[0], 0)),
        x_(4 * 40, 0.5f),
        hidden_(4 * 40, 0.0f) {
    input_ = {.weights = &weights_,
              .layer = 7,
              .step_id = 3,
              .num_tokens_per_rank = counts_,
              .x = {.data = x_.data(), .dtype = DType::kF32, .rows = 4, .cols = 40},
              .hidden = {.data = hidden_.data(), .dtype = DType::kF32, .rows = 4, .cols = 40}};
  }

  absl::Status Forward() {
    StepResult result;
    return layer_->Forward(input_, result);
  }

  MoeTestModel model_;
  ExpertPlacement placement_;
  std::unique_ptr<kernels::Backend> backend_;
  std::unique_ptr<Communicator> communicator_;
  std::unique_ptr<MoeLayer> layer_;
  LayerWeights weights_;
  std::vector<float> x_, hidden_;
  std::vector<int32_t> counts_ = {4};
  MoeLayerInput input_;
};

TEST_F(MoeLayerInputTest, InputsThatDoNotFitAreRefusedAndChangeNothing) {
  const std::vector<int32_t> too_many = {5}, negative = {-1}, two_ranks = {4, 0}, three = {3};
  for (const auto& change : std::vector<std::function<void(MoeLayerInput&)>>{
           [](MoeLayerInput& in) { in.weights = nullptr; },
           [](MoeLayerInput& in) { in.moe_layer = 2; },
           [](MoeLayerInput& in) { in.moe_layer = -1; },
           [&](MoeLayerInput& in) { in.num_tokens_per_rank = too_many; },
           [&](MoeLayerInput& in) { in.num_tokens_per_rank = negative; },
           [&](MoeLayerInput& in) { in.num_tokens_per_rank = two_ranks; },
           [&](MoeLayerInput& in) { in.num_tokens_per_rank = three; },
           [&](MoeLayerInput& in) { in.num_tokens_per_rank = {}; },
           [](MoeLayerInput& in) { in.x.cols = 39; },
           [](MoeLayerInput& in) { in.x.dtype = DType::kBF16; },
           [](MoeLayerInput& in) { in.hidden.rows = 3; },
       }) {
    const MoeLayerInput good = input_;
    change(input_);
    const absl::Status status = Forward();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("layer 7 of step 3"));
    EXPECT_EQ(hidden_, std::vector<float>(4 * 40, 0.0f));
    input_ = good;
  }
  EXPECT_TRUE(Forward().ok());
}

TEST_F(MoeLayerInputTest, TheSameInputGivesTheSameOutputTwice) {
  ASSERT_TRUE(Forward().ok());
  const std::vector<float> first = hidden_;
  EXPECT_NE(first, std::vector<float>(4 * 40, 0.0f));
  std::fill(hidden_.begin(), hidden_.end(), 0.0f);
  ASSERT_TRUE(Forward().ok());
  EXPECT_EQ(hidden_, first);
}

TEST_F(MoeLayerInputTest, HoldsTheScratchThatWasForetold) {
  EXPECT_EQ(layer_->workspace_bytes(), *MoeWorkspaceBytes(model_.config, placement_, 0,
                                                          {.max_tokens_per_rank = 4}, DType::kF32));
}

TEST(MoeWorkspaceTest, EqualsTheFormula) {
  ModelConfig config = SmallMoeConfig();
  config.shared_intermediate_size = 16;
  config.shared_expert_gate = true;
  const int64_t t = 8, r = 4, k = 3, h = 40, i = 24, m = 2;
  ExpertPlacement placement = ExpertPlacement::Linear(2, 10, 4);
  placement.layers[0] = MakeLayer({{0, 1}, {2, 3, 4}, {5, 6, 7}, {8, 9}});
  placement.layers[1] = MakeLayer({{0}, {2, 3, 4}, {5, 6, 7}, {1, 8, 9}});
  // Rank 0 holds at most 2 slots of a layer, so at most 2 rows of one token.
  const int64_t rows = 2 * ((r - 1) * t * h + r * t * h + r * t * m * i +
                            (t * k + (r - 1) * t * m) * h + t * 16 + t * h);
  const int64_t ints = 4 * (t * 10 + 3 * t * k + r * t * k + t + (r - 1) * t + 2 * r * t * m + t);
  EXPECT_EQ(*MoeWorkspaceBytes(config, placement, 0, {.max_tokens_per_rank = 8}, DType::kBF16),
            rows + ints);
}

TEST(MoeWorkspaceTest, WhatDoesNotFitTogetherIsRefused) {
  const ExpertPlacement good = ExpertPlacement::Linear(2, 10, 4);
  const auto bytes =
      [&](const std::function<void(ModelConfig&, ExpertPlacement&, MoeOptions&)>& change,
          int32_t rank) {
        ModelConfig config = SmallMoeConfig();
        ExpertPlacement placement = good;
        MoeOptions options = {.max_tokens_per_rank = 8};
        change(config, placement, options);
        return MoeWorkspaceBytes(config, placement, rank, options, DType::kBF16).status();
      };
  const auto none = [](ModelConfig&, ExpertPlacement&, MoeOptions&) {};
  EXPECT_TRUE(bytes(none, 3).ok());
  EXPECT_TRUE(absl::IsInvalidArgument(bytes(none, 4)));
  EXPECT_TRUE(absl::IsInvalidArgument(bytes(none, -1)));
  for (const auto& change :
       std::vector<std::function<void(ModelConfig&, ExpertPlacement&, MoeOptions&)>>{
           [](ModelConfig&c, ExpertPlacement&, MoeOptions&) { c.top_k = 11; },
           [](ModelConfig&c, ExpertPlacement&, MoeOptions&) { c.top_k = 0; },
           [](ModelConfig&c, ExpertPlacement&, MoeOptions&) { c.hidden_size = 0; },
           [](ModelConfig&c, ExpertPlacement&, MoeOptions&) { c.hidden_size = INT64_MAX / 2; },
           [](ModelConfig&c, ExpertPlacement&, MoeOptions&) { c.moe_intermediate_size = -1; },
           [](ModelConfig&c, ExpertPlacement&, MoeOptions&) { c.num_experts = 11; },
           [](ModelConfig&c, ExpertPlacement&, MoeOptions&) { c.layer_is_moe = {true}; },
           [](ModelConfig&, ExpertPlacement&p, MoeOptions&) { p.layers[1].slot_to_expert[0] = 10; },
           [](ModelConfig&, ExpertPlacement&p, MoeOptions&) {
             p.layers[0].rank_slot_begin[1] = 99;
           },
           [](ModelConfig&, ExpertPlacement&, MoeOptions&o) { o.max_tokens_per_rank = 0; },
           [](ModelConfig&, ExpertPlacement&, MoeOptions&o) { o.max_tokens_per_rank = -5; },
           [](ModelConfig&, ExpertPlacement&, MoeOptions&o) { o.max_tokens_per_rank = INT32_MAX; },
       }) {
    EXPECT_TRUE(absl::IsInvalidArgument(bytes(change, 0))) << bytes(change, 0);
  }
}

TEST(MoeLayerCreateTest, APlacementForAnotherNumberOfRanksIsRefused) {
  const auto backend = ValueOrDie(kernels::CreateBackend({.activation_dtype = DType::kF32}));
  const auto communicator = CreateSingleRankCommunicator();
  const absl::Status status =
      MoeLayer::Create(*backend, *communicator, SmallMoeConfig(), ExpertPlacement::Linear(2, 10, 2),
                       {.max_tokens_per_rank = 4})
          .status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
}

}  // namespace
}  // namespace moed
