#include "client/top/top_rates.h"

#include <algorithm>
#include <numeric>

namespace moed {
namespace {

double Growth(double before, double now) { return now >= before ? now - before : now; }

double Ratio(double part, double whole) { return whole > 0 ? part / whole : 0; }

double Balancedness(const std::vector<double>& rows) {
  if (rows.empty()) return 0;
  const double sum = std::accumulate(rows.begin(), rows.end(), 0.0);
  return Ratio(sum / static_cast<double>(rows.size()), *std::ranges::max_element(rows));
}

double WaitSeconds(const v1::StepSeconds& seconds) {
  return seconds.dispatch_wait() + seconds.combine_wait();
}

std::vector<std::pair<std::string, double>> Stages(const v1::StepSeconds& before,
                                                   const v1::StepSeconds& now) {
  const double total = Growth(before.total(), now.total());
  const auto part = [&](const char* name, double (v1::StepSeconds::*seconds)() const) {
    const double grown = Growth((before.*seconds)(), (now.*seconds)());
    return std::pair<std::string, double>(name, std::min(Ratio(grown, total), 1.0));
  };
  std::vector<std::pair<std::string, double>> stages = {
      part("attention", &v1::StepSeconds::attention), part("route", &v1::StepSeconds::route),
      part("dispatch", &v1::StepSeconds::dispatch),   part("experts", &v1::StepSeconds::experts),
      part("combine", &v1::StepSeconds::combine),     part("head", &v1::StepSeconds::head),
      part("sampling", &v1::StepSeconds::sampling)};
  double rest = total > 0 ? 1 : 0;
  for (const auto& [name, ratio] : stages) rest -= ratio;
  stages.emplace_back("other", std::max(rest, 0.0));
  return stages;
}

// Rows of each rank; an expert's rows are taken as spread evenly over its copies.
std::vector<double> RowsPerRank(const v1::LayerExperts& layer, const std::vector<double>& tokens,
                                int num_ranks) {
  std::vector<int> copies(tokens.size());
  for (const v1::ExpertSlot& slot : layer.slots()) ++copies.at(slot.expert_id());
  std::vector<double> rows(static_cast<size_t>(num_ranks));
  for (const v1::ExpertSlot& slot : layer.slots()) {
    rows.at(slot.rank()) += tokens[slot.expert_id()] / copies[slot.expert_id()];
  }
  return rows;
}

// A server that contradicts itself gives no load rather than a crash.
bool IsSound(const v1::LayerExperts& layer, int num_experts, int num_ranks) {
  return layer.tokens_per_expert_size() == num_experts &&
         std::ranges::all_of(layer.slots(), [&](const v1::ExpertSlot& slot) {
           return slot.expert_id() >= 0 && slot.expert_id() < num_experts && slot.rank() >= 0 &&
                  slot.rank() < num_ranks;
         });
}

std::vector<LayerLoad> Layers(const v1::GetExpertsResponse& before,
                              const v1::GetExpertsResponse& now, int num_ranks) {
  std::vector<LayerLoad> loads;
  for (int i = 0; i < now.layers_size(); ++i) {
    const v1::LayerExperts& layer = now.layers(i);
    if (!IsSound(layer, now.num_experts(), num_ranks)) continue;
    LayerLoad& load = loads.emplace_back(LayerLoad{.layer = layer.layer()});
    const bool has_before = i < before.layers_size() && before.layers(i).layer() == layer.layer();
    for (int e = 0; e < layer.tokens_per_expert_size(); ++e) {
      const bool is_known = has_before && e < before.layers(i).tokens_per_expert_size();
      const auto old = is_known ? static_cast<double>(before.layers(i).tokens_per_expert(e)) : 0;
      load.tokens.push_back(Growth(old, static_cast<double>(layer.tokens_per_expert(e))));
    }
    load.balancedness = Balancedness(RowsPerRank(layer, load.tokens, num_ranks));
  }
  return loads;
}

std::vector<RankRates> Ranks(const v1::GetStatusResponse& before, const v1::GetStatusResponse& now,
                             double seconds) {
  std::vector<RankRates> ranks;
  for (int r = 0; r < now.ranks_size(); ++r) {
    const v1::RankStatus& rank = now.ranks(r);
    const v1::RankStatus old = r < before.ranks_size() ? before.ranks(r) : v1::RankStatus();
    const double total = Growth(old.seconds().total(), rank.seconds().total());
    const double wait = Growth(WaitSeconds(old.seconds()), WaitSeconds(rank.seconds()));
    const double rows = Growth(static_cast<double>(old.num_expert_rows()),
                               static_cast<double>(rank.num_expert_rows()));
    ranks.push_back({.rows = Ratio(rows, seconds),
                     .busy_ratio = std::min(Ratio(total, seconds), 1.0),
                     .wait_ratio = std::min(Ratio(wait, total), 1.0)});
  }
  return ranks;
}

}  // namespace

TopRates RatesBetween(const TopSnapshot& before, const TopSnapshot& now) {
  const v1::GetStatusResponse& from = before.status;
  const v1::GetStatusResponse& to = now.status;
  TopRates rates{.seconds = now.seconds - before.seconds};
  const auto growth = [](int64_t a, int64_t b) {
    return Growth(static_cast<double>(a), static_cast<double>(b));
  };
  const auto rate = [&](int64_t a, int64_t b) { return Ratio(growth(a, b), rates.seconds); };
  rates.generated_tokens = rate(from.num_generated_tokens(), to.num_generated_tokens());
  rates.prompt_tokens = rate(from.num_prompt_tokens(), to.num_prompt_tokens());
  rates.finished_requests = rate(from.num_finished_requests(), to.num_finished_requests());
  rates.steps = rate(from.num_steps(), to.num_steps());
  rates.exchange_bytes = rate(before.experts.dispatch_bytes(), now.experts.dispatch_bytes()) +
                         rate(before.experts.combine_bytes(), now.experts.combine_bytes());
  const double num_steps = growth(from.num_steps(), to.num_steps());
  rates.step_seconds = Ratio(Growth(from.seconds().total(), to.seconds().total()), num_steps);
  rates.plan_seconds = Ratio(Growth(from.seconds().plan(), to.seconds().plan()), num_steps);
  rates.cache_hit_ratio = Ratio(growth(from.prefix_cache_hits(), to.prefix_cache_hits()),
                                growth(from.prefix_cache_queries(), to.prefix_cache_queries()));
  rates.stages = Stages(from.seconds(), to.seconds());
  rates.ranks = Ranks(from, to, rates.seconds);
  rates.layers = Layers(before.experts, now.experts, to.ranks_size());
  std::vector<double> rows;
  for (const RankRates& rank : rates.ranks) rows.push_back(rank.rows);
  rates.balancedness = Balancedness(rows);
  return rates;
}

}  // namespace moed
