#include "engine/moe/dispatch_plan.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "config/base/check.h"
#include "config/base/status_macros.h"

namespace moed {
namespace {

int32_t Sum(const std::vector<int32_t>& counts) {
  return std::accumulate(counts.begin(), counts.end(), int32_t{0});
}

/// Where the rows of each entry begin when all follow each other from `first`.
std::vector<int32_t> Begins(const std::vector<int32_t>& counts, int32_t first) {
  std::vector<int32_t> begins(counts.size());
  std::exclusive_scan(counts.begin(), counts.end(), begins.begin(), first);
  return begins;
}

/// A token of any rank.
struct Token {
  int32_t source = 0;  // its home rank
  int32_t row = 0;     // in its home rank
  int64_t index = 0;   // over all ranks
};

/// Builds one plan in two passes over all tokens in order (source rank, row) and their choices: the
/// first chooses slots and counts rows, the second gives every row its place. Lives during one
/// call.
class PlanBuilder {
 public:
  explicit PlanBuilder(const DispatchPlanParams& params)
      : params_(params),
        slots_(*params.slots),
        num_ranks_(static_cast<int32_t>(params.num_tokens_per_rank.size())),
        local_begin_(slots_.slot_begin(params.rank)) {}

  absl::StatusOr<DispatchPlan> Build() && {
    MOED_RETURN_IF_ERROR(CheckNumIds());
    MOED_RETURN_IF_ERROR(ChooseSlots());
    InitCounts();
    ForEachToken([this](const Token& token) { Count(token); });
    InitPlaces();
    ForEachToken([this](const Token& token) { Place(token); });
    return std::move(plan_);
  }

 private:
  template <typename Fn>
  void ForEachToken(Fn fn) const {
    Token token;
    for (token.source = 0; token.source < num_ranks_; ++token.source) {
      for (token.row = 0; token.row < params_.num_tokens_per_rank[token.source]; ++token.row) {
        fn(token);
        ++token.index;
      }
    }
  }

  int32_t slot_of(const Token& token, int32_t k) const {
    return chosen_[static_cast<size_t>(token.index * params_.top_k + k)];
  }
  bool is_own(const Token& token) const { return token.source == params_.rank; }

  /// True the first time a token is seen with `rank` in one pass.
  bool IsFirstTo(int32_t rank, const Token& token) {
    return std::exchange(last_token_to_[rank], token.index) != token.index;
  }

  absl::Status CheckNumIds() const {
    int64_t num_tokens = 0;
    for (const int32_t count : params_.num_tokens_per_rank) {
      if (count < 0) return absl::InternalError("planning the dispatch: a negative token count");
      num_tokens += count;
    }
    if (num_tokens * params_.top_k == static_cast<int64_t>(params_.topk_ids.size()) &&
        params_.topk_ids.size() <= INT32_MAX) {
      return absl::OkStatus();
    }
    return absl::InternalError(absl::StrCat("planning the dispatch: ", params_.topk_ids.size(),
                                            " topk_ids, expected ", num_tokens, " * ",
                                            params_.top_k));
  }

  absl::Status ChooseSlots() {
    chosen_.reserve(params_.topk_ids.size());
    last_token_with_.assign(slots_.num_experts(), -1);
    absl::Status status;
    ForEachToken([&](const Token& token) {
      if (status.ok()) status = ChooseSlots(token);
    });
    return status;
  }

  absl::Status ChooseSlots(const Token& token) {
    for (int32_t k = 0; k < params_.top_k; ++k) {
      const int32_t id = params_.topk_ids[chosen_.size()];
      if (id < 0 || id >= slots_.num_experts()) {
        return BadId(token,
                     absl::StrCat("expert ", id, ", expected 0 to ", slots_.num_experts() - 1));
      }
      if (std::exchange(last_token_with_[id], token.index) == token.index) {
        return BadId(token, absl::StrCat("expert ", id, " twice"));
      }
      chosen_.push_back(slots_.Choose(id, token.source, token.row, k));
    }
    return absl::OkStatus();
  }

  static absl::Status BadId(const Token& token, const std::string& what) {
    return absl::InternalError(absl::StrCat("planning the dispatch: token ", token.row, " of rank ",
                                            token.source, " chose ", what));
  }

  void InitCounts() {
    plan_.rank = params_.rank;
    plan_.num_tokens = params_.num_tokens_per_rank[params_.rank];
    plan_.top_k = params_.top_k;
    for (auto* counts :
         {&plan_.send_rows, &plan_.recv_rows, &plan_.home_rows, &plan_.return_rows}) {
      counts->assign(num_ranks_, 0);
    }
    rows_of_slot_.assign(slots_.slot_begin(params_.rank + 1) - local_begin_, 0);
    last_token_to_.assign(num_ranks_, -1);
    plan_.slot_of.reserve(plan_.num_own_output_rows());
    plan_.rank_of.reserve(plan_.num_own_output_rows());
  }

  void Count(const Token& token) {
    for (int32_t k = 0; k < params_.top_k; ++k) {
      const int32_t slot = slot_of(token, k);
      const int32_t rank = slots_.rank_of(slot);
      const bool is_here = rank == params_.rank;
      if (is_here) ++rows_of_slot_[slot - local_begin_];
      if (is_own(token)) {
        plan_.slot_of.push_back(slot);
        plan_.rank_of.push_back(rank);
        plan_.home_rows[rank] += !is_here;
        plan_.send_rows[rank] += !is_here && IsFirstTo(rank, token);
      } else if (is_here) {
        ++plan_.return_rows[token.source];
        plan_.recv_rows[token.source] += IsFirstTo(rank, token);
      }
    }
  }

  void InitPlaces() {
    plan_.expert_offsets = Begins(rows_of_slot_, 0);
    next_in_slot_ = plan_.expert_offsets;
    const int32_t num_rows = Sum(rows_of_slot_);
    plan_.expert_offsets.push_back(num_rows);
    plan_.x_row.resize(num_rows);
    plan_.out_row.resize(num_rows);
    plan_.send_token.resize(Sum(plan_.send_rows));
    plan_.row_of.resize(plan_.num_own_output_rows());
    next_send_ = Begins(plan_.send_rows, 0);
    next_home_ = Begins(plan_.home_rows, 0);
    next_own_ = plan_.num_home();
    next_return_ = plan_.num_own_output_rows();
    next_received_ = plan_.num_tokens;
    last_token_to_.assign(num_ranks_, -1);
  }

  void Place(const Token& token) {
    for (int32_t k = 0; k < params_.top_k; ++k) {
      const int32_t slot = slot_of(token, k);
      const int32_t rank = slots_.rank_of(slot);
      if (is_own(token)) {
        PlaceOwn(token, k, rank);
        if (rank == params_.rank) {
          PlaceExpertRow(slot, token.row, plan_.row_of[token.row * params_.top_k + k]);
        }
      } else if (rank == params_.rank) {
        next_received_ += IsFirstTo(rank, token);
        PlaceExpertRow(slot, next_received_ - 1, next_return_++);
      }
    }
  }

  void PlaceOwn(const Token& token, int32_t k, int32_t rank) {
    const bool is_here = rank == params_.rank;
    plan_.row_of[token.row * params_.top_k + k] = is_here ? next_own_++ : next_home_[rank]++;
    if (!is_here && IsFirstTo(rank, token)) plan_.send_token[next_send_[rank]++] = token.row;
  }

  void PlaceExpertRow(int32_t slot, int32_t x_row, int32_t out_row) {
    const int32_t place = next_in_slot_[slot - local_begin_]++;
    plan_.x_row[place] = x_row;
    plan_.out_row[place] = out_row;
  }

  const DispatchPlanParams& params_;
  const ExpertSlots& slots_;
  const int32_t num_ranks_;
  const int32_t local_begin_;             // first slot of this rank
  std::vector<int32_t> chosen_;           // [all tokens, top_k] slots
  std::vector<int64_t> last_token_with_;  // [num_experts] index of the token that chose it last
  std::vector<int64_t> last_token_to_;    // [num_ranks] index of the token that went there last
  std::vector<int32_t> rows_of_slot_;     // [local slots]
  std::vector<int32_t> next_in_slot_;     // [local slots] next expert row
  std::vector<int32_t> next_send_;        // [num_ranks] next entry of send_token
  std::vector<int32_t> next_home_;        // [num_ranks] next output row that returns from there
  int32_t next_own_ = 0;                  // next output row of an own token computed here
  int32_t next_return_ = 0;               // next output row of a token that lives elsewhere
  int32_t next_received_ = 0;             // next input row of a token that lives elsewhere
  DispatchPlan plan_;
};

}  // namespace

ExpertSlots::ExpertSlots(const ExpertPlacement::Layer& layer, int32_t num_experts)
    : begin_(num_experts + 1, 0),
      slots_(layer.slot_to_expert.size()),
      slot_rank_(layer.slot_to_expert.size()),
      rank_slot_begin_(layer.rank_slot_begin) {
  for (const int32_t expert : layer.slot_to_expert) ++begin_[expert + 1];
  std::partial_sum(begin_.begin(), begin_.end(), begin_.begin());
  std::vector<int32_t> next(begin_.begin(), begin_.end() - 1);
  for (size_t slot = 0; slot < slots_.size(); ++slot) {
    slots_[next[layer.slot_to_expert[slot]]++] = static_cast<int32_t>(slot);
  }
  for (size_t rank = 0; rank + 1 < rank_slot_begin_.size(); ++rank) {
    std::fill(slot_rank_.begin() + rank_slot_begin_[rank],
              slot_rank_.begin() + rank_slot_begin_[rank + 1], static_cast<int32_t>(rank));
  }
}

int32_t ExpertSlots::Choose(int32_t expert_id, int32_t home_rank, int32_t token, int32_t k) const {
  const std::span<const int32_t> copies(slots_.begin() + begin_[expert_id],
                                        slots_.begin() + begin_[expert_id + 1]);
  for (const int32_t slot : copies) {
    if (slot_rank_[slot] == home_rank) return slot;
  }
  const int64_t turn = int64_t{token} + k + home_rank;
  return copies[static_cast<size_t>(turn % static_cast<int64_t>(copies.size()))];
}

int32_t DispatchPlan::num_received() const { return Sum(recv_rows); }
int32_t DispatchPlan::num_home() const { return Sum(home_rows); }
int32_t DispatchPlan::num_returned() const { return Sum(return_rows); }

absl::StatusOr<DispatchPlan> MakeDispatchPlan(const DispatchPlanParams& params) {
  MOED_CHECK(params.rank >= 0 &&
             static_cast<size_t>(params.rank) < params.num_tokens_per_rank.size());
  return PlanBuilder(params).Build();
}

}  // namespace moed
