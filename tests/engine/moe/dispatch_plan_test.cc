#include "engine/moe/dispatch_plan.h"

#include <algorithm>
#include <numeric>
#include <random>
#include <set>
#include <tuple>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/moe/placements.h"

namespace moed {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

/// The routing of one layer of one step.
struct Routing {
  std::vector<int32_t> num_tokens_per_rank;
  std::vector<int32_t> topk_ids;
  int32_t top_k = 0;
};

absl::StatusOr<DispatchPlan> Plan(const ExpertSlots& slots, const Routing& routing, int32_t rank) {
  return MakeDispatchPlan({.slots = &slots,
                           .topk_ids = routing.topk_ids,
                           .num_tokens_per_rank = routing.num_tokens_per_rank,
                           .top_k = routing.top_k,
                           .rank = rank});
}

/// Four ranks, six experts; expert 0 has a copy on rank 0 (slot 0) and one on rank 2 (slot 5).
const ExpertPlacement::Layer kLayer = {.slot_to_expert = {0, 1, 2, 3, 4, 0, 5},
                                       .rank_slot_begin = {0, 2, 4, 6, 7}};
const Routing kRouting = {.num_tokens_per_rank = {2, 1, 0, 1},
                          .topk_ids = {2, 3, /**/ 0, 5, /* rank 1 */ 4, 0, /* rank 3 */ 1, 5},
                          .top_k = 2};

TEST(DispatchPlanTest, FollowsTheWorkedExampleOnARankWithTokensAndExperts) {
  const absl::StatusOr<DispatchPlan> plan = Plan(ExpertSlots(kLayer, 6), kRouting, 0);
  ASSERT_TRUE(plan.ok()) << plan.status();
  // Token 0 goes once to rank 1 for both its experts; token 1 stays here for expert 0 and goes to
  // rank 3.
  EXPECT_THAT(plan->send_rows, ElementsAre(0, 1, 0, 1));
  EXPECT_THAT(plan->send_token, ElementsAre(0, 1));
  EXPECT_THAT(plan->slot_of, ElementsAre(2, 3, 0, 6));
  EXPECT_THAT(plan->rank_of, ElementsAre(1, 1, 0, 3));
  // Rank 1's token comes for expert 0 (its turn 0 + 1 + 1 picks copy 0), rank 3's for expert 1.
  EXPECT_THAT(plan->recv_rows, ElementsAre(0, 1, 0, 1));
  EXPECT_THAT(plan->expert_offsets, ElementsAre(0, 2, 3));
  EXPECT_THAT(plan->x_row, ElementsAre(1, 2, 3));
  // Rows 0..2 return (two of token 0, one of token 1), row 3 is computed here, rows 4 and 5 are
  // returned.
  EXPECT_THAT(plan->home_rows, ElementsAre(0, 2, 0, 1));
  EXPECT_THAT(plan->row_of, ElementsAre(0, 1, 3, 2));
  EXPECT_THAT(plan->out_row, ElementsAre(3, 4, 5));
  EXPECT_THAT(plan->return_rows, ElementsAre(0, 1, 0, 1));
}

TEST(DispatchPlanTest, ARankWithoutTokensOnlyServesItsExperts) {
  const absl::StatusOr<DispatchPlan> plan = Plan(ExpertSlots(kLayer, 6), kRouting, 2);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->num_tokens, 0);
  EXPECT_THAT(plan->send_rows, ElementsAre(0, 0, 0, 0));
  EXPECT_THAT(plan->recv_rows, ElementsAre(0, 1, 0, 0));
  EXPECT_THAT(plan->expert_offsets, ElementsAre(0, 1, 1));
  EXPECT_THAT(plan->x_row, ElementsAre(0));
  EXPECT_THAT(plan->out_row, ElementsAre(0));
  EXPECT_THAT(plan->return_rows, ElementsAre(0, 1, 0, 0));
  EXPECT_THAT(plan->row_of, IsEmpty());
}

TEST(DispatchPlanTest, OneRankKeepsEverythingInRouterOrder) {
  const ExpertPlacement placement = ExpertPlacement::Linear(1, 4, 1);
  const Routing routing = {.num_tokens_per_rank = {2}, .topk_ids = {3, 0, 0, 1}, .top_k = 2};
  const absl::StatusOr<DispatchPlan> plan = Plan(ExpertSlots(placement.layers[0], 4), routing, 0);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_THAT(plan->expert_offsets, ElementsAre(0, 2, 3, 3, 4));
  EXPECT_THAT(plan->x_row, ElementsAre(0, 1, 1, 0));
  EXPECT_THAT(plan->out_row, ElementsAre(1, 2, 3, 0));
  EXPECT_THAT(plan->row_of, ElementsAre(0, 1, 2, 3));
  EXPECT_EQ(plan->num_sent() + plan->num_received() + plan->num_home() + plan->num_returned(), 0);
}

TEST(DispatchPlanTest, AStepWithoutTokensPlansNothing) {
  const Routing routing = {.num_tokens_per_rank = {0, 0, 0, 0}, .topk_ids = {}, .top_k = 2};
  const absl::StatusOr<DispatchPlan> plan = Plan(ExpertSlots(kLayer, 6), routing, 1);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->num_expert_rows(), 0);
  EXPECT_THAT(plan->expert_offsets, ElementsAre(0, 0, 0));
}

TEST(DispatchPlanTest, ImpossibleIdsAreAnErrorThatNamesTheToken) {
  const ExpertSlots slots(kLayer, 6);
  for (const int32_t bad : {-1, 6, INT32_MIN, INT32_MAX}) {
    Routing routing = kRouting;
    routing.topk_ids[7] = bad;
    const absl::Status status = Plan(slots, routing, 0).status();
    EXPECT_TRUE(absl::IsInternal(status)) << status;
    EXPECT_THAT(std::string(status.message()),
                HasSubstr("token 0 of rank 3 chose expert " + std::to_string(bad)));
  }
  Routing twice = kRouting;
  twice.topk_ids = {2, 3, 5, 5, 4, 0, 1, 5};
  EXPECT_THAT(std::string(Plan(slots, twice, 1).status().message()),
              HasSubstr("token 1 of rank 0 chose expert 5 twice"));
}

TEST(DispatchPlanTest, CountsThatDoNotMatchTheIdsAreAnError) {
  const ExpertSlots slots(kLayer, 6);
  Routing routing = kRouting;
  routing.topk_ids.pop_back();
  EXPECT_TRUE(absl::IsInternal(Plan(slots, routing, 0).status()));
  routing = kRouting;
  routing.num_tokens_per_rank[2] = -1;
  EXPECT_TRUE(absl::IsInternal(Plan(slots, routing, 0).status()));
}

TEST(ExpertSlotsTest, PrefersTheHomeRanksCopyAndElseUsesAllCopies) {
  const ExpertSlots slots(
      {.slot_to_expert = {0, 1, 0, 1, 0, 1, 2}, .rank_slot_begin = {0, 2, 4, 6, 7}}, 3);
  std::vector<int> uses(7, 0);
  for (int32_t token = 0; token < 30; ++token) {
    EXPECT_EQ(slots.Choose(0, 1, token, token % 3), 2);
    EXPECT_EQ(slots.Choose(2, 1, token, 0), 6);
    ++uses[slots.Choose(1, 3, token, 0)];
  }
  EXPECT_THAT(uses, ElementsAre(0, 10, 0, 10, 0, 10, 0));
}

/// A row that remembers where it came from: (source rank, token, expert or -1).
using Row = std::tuple<int32_t, int32_t, int32_t>;

/// Runs a layer on all ranks with rows that only carry their names, the way the engine moves them.
class SymbolicRun {
 public:
  SymbolicRun(const ExpertPlacement::Layer& layer, const Routing& routing,
              std::vector<DispatchPlan> plans)
      : layer_(layer), routing_(routing), plans_(std::move(plans)) {}

  void Run() {
    Exchange(&DispatchPlan::send_rows, &DispatchPlan::recv_rows,
             [this](int32_t r) { return SentRows(r); });
    for (size_t r = 0; r < plans_.size(); ++r) {
      received_[r].insert(received_[r].begin(), plans_[r].num_tokens, Row());
      for (int32_t t = 0; t < plans_[r].num_tokens; ++t) {
        received_[r][t] = {static_cast<int32_t>(r), t, -1};
      }
    }
    const std::vector<std::vector<Row>> inputs = received_;
    for (size_t r = 0; r < plans_.size(); ++r) RunExperts(static_cast<int32_t>(r), inputs[r]);
    Exchange(&DispatchPlan::return_rows, &DispatchPlan::home_rows, [this](int32_t r) {
      const auto begin = outputs_[r].begin() + plans_[r].num_own_output_rows();
      return std::vector<Row>(begin, outputs_[r].end());
    });
    CheckHome();
  }

 private:
  std::vector<Row> SentRows(int32_t rank) const {
    std::vector<Row> rows;
    for (const int32_t token : plans_[rank].send_token) rows.push_back({rank, token, -1});
    return rows;
  }

  /// AllToAllV of rows that lie by destination; checks that both sides agree on every size.
  template <typename Sent>
  void Exchange(std::vector<int32_t> DispatchPlan::*out, std::vector<int32_t> DispatchPlan::*in,
                Sent sent) {
    received_.assign(plans_.size(), {});
    for (size_t from = 0; from < plans_.size(); ++from) {
      const std::vector<Row> rows = sent(static_cast<int32_t>(from));
      size_t next = 0;
      for (size_t to = 0; to < plans_.size(); ++to) {
        const int32_t n = (plans_[from].*out)[to];
        ASSERT_EQ(n, (plans_[to].*in)[from]) << from << " to " << to;
        ASSERT_TRUE(from != to || n == 0);
        for (int32_t i = 0; i < n; ++i) received_[to].push_back(rows.at(next++));
      }
      ASSERT_EQ(next, rows.size());
    }
  }

  void RunExperts(int32_t rank, const std::vector<Row>& input) {
    const DispatchPlan& plan = plans_[rank];
    outputs_.resize(plans_.size());
    outputs_[rank].assign(plan.num_own_output_rows() + plan.num_returned(), Row(-1, -1, -1));
    const int32_t num_slots = layer_.rank_slot_begin[rank + 1] - layer_.rank_slot_begin[rank];
    ASSERT_EQ(plan.expert_offsets.size(), static_cast<size_t>(num_slots) + 1);
    for (int32_t s = 0; s < num_slots; ++s) {
      for (int32_t i = plan.expert_offsets[s]; i < plan.expert_offsets[s + 1]; ++i) {
        const auto [source, token, none] = input.at(plan.x_row[i]);
        Row& out = outputs_[rank].at(plan.out_row[i]);
        ASSERT_EQ(out, Row(-1, -1, -1)) << "an output row is written twice";
        out = {source, token, layer_.slot_to_expert[layer_.rank_slot_begin[rank] + s]};
      }
    }
  }

  /// Every choice of every token finds the row of its own token and expert.
  void CheckHome() const {
    size_t id = 0;
    for (size_t r = 0; r < plans_.size(); ++r) {
      const DispatchPlan& plan = plans_[r];
      std::vector<Row> rows = outputs_[r];
      std::copy(received_[r].begin(), received_[r].end(), rows.begin());
      std::set<int32_t> used;
      for (int32_t i = 0; i < plan.num_own_output_rows(); ++i, ++id) {
        const Row expected(static_cast<int32_t>(r), i / routing_.top_k, routing_.topk_ids[id]);
        EXPECT_EQ(rows.at(plan.row_of[i]), expected);
        EXPECT_TRUE(used.insert(plan.row_of[i]).second);
        EXPECT_EQ(layer_.slot_to_expert.at(plan.slot_of[i]), routing_.topk_ids[id]);
        EXPECT_GE(plan.slot_of[i], layer_.rank_slot_begin[plan.rank_of[i]]);
        EXPECT_LT(plan.slot_of[i], layer_.rank_slot_begin[plan.rank_of[i] + 1]);
      }
    }
  }

  const ExpertPlacement::Layer& layer_;
  const Routing& routing_;
  const std::vector<DispatchPlan> plans_;
  std::vector<std::vector<Row>> received_;
  std::vector<std::vector<Row>> outputs_;
};

Routing RandomRouting(std::mt19937& rng, int32_t num_ranks, int32_t num_experts) {
  Routing routing;
  routing.top_k = 1 + static_cast<int32_t>(rng() % std::min(num_experts, 8));
  std::vector<int32_t> experts(num_experts);
  std::iota(experts.begin(), experts.end(), 0);
  for (int32_t r = 0; r < num_ranks; ++r) {
    routing.num_tokens_per_rank.push_back(rng() % 3 == 0 ? 0 : static_cast<int32_t>(rng() % 20));
    for (int32_t t = 0; t < routing.num_tokens_per_rank.back(); ++t) {
      std::shuffle(experts.begin(), experts.end(), rng);
      routing.topk_ids.insert(routing.topk_ids.end(), experts.begin(),
                              experts.begin() + routing.top_k);
    }
  }
  return routing;
}

TEST(DispatchPlanTest, EveryChoiceOfEveryTokenIsComputedOnceAndComesHomeForAnyPlacement) {
  std::mt19937 rng(7);
  for (int round = 0; round < 300 && !testing::Test::HasFailure(); ++round) {
    const int32_t num_ranks = 1 + static_cast<int32_t>(rng() % 8);
    const int32_t num_experts = 1 + static_cast<int32_t>(rng() % 24);
    const Routing routing = RandomRouting(rng, num_ranks, num_experts);
    const ExpertPlacement placement = RandomPlacement(rng(), 1, num_experts, num_ranks);
    ASSERT_TRUE(placement.Validate().ok()) << placement.Validate();
    const ExpertSlots slots(placement.layers[0], num_experts);
    std::vector<DispatchPlan> plans;
    for (int32_t rank = 0; rank < num_ranks; ++rank) {
      absl::StatusOr<DispatchPlan> plan = Plan(slots, routing, rank);
      ASSERT_TRUE(plan.ok()) << plan.status();
      plans.push_back(*std::move(plan));
    }
    SymbolicRun(placement.layers[0], routing, plans).Run();
  }
}

TEST(DispatchPlanTest, ATokenGoesToExactlyTheRanksThatComputeForItAndOnceToEach) {
  std::mt19937 rng(11);
  for (int round = 0; round < 100; ++round) {
    const Routing routing = RandomRouting(rng, 5, 16);
    const ExpertPlacement placement = RandomPlacement(rng(), 1, 16, 5);
    const ExpertSlots slots(placement.layers[0], 16);
    for (int32_t rank = 0; rank < 5; ++rank) {
      const absl::StatusOr<DispatchPlan> plan = Plan(slots, routing, rank);
      ASSERT_TRUE(plan.ok()) << plan.status();
      std::set<std::pair<int32_t, int32_t>> expected;  // (destination, token), as sent
      for (int32_t i = 0; i < plan->num_own_output_rows(); ++i) {
        if (plan->rank_of[i] != rank) expected.insert({plan->rank_of[i], i / routing.top_k});
      }
      std::vector<std::pair<int32_t, int32_t>> sent;
      size_t next = 0;
      for (int32_t to = 0; to < 5; ++to) {
        for (int32_t i = 0; i < plan->send_rows[to]; ++i)
          sent.push_back({to, plan->send_token[next++]});
      }
      EXPECT_THAT(sent, testing::ElementsAreArray(expected));
    }
  }
}

}  // namespace
}  // namespace moed
