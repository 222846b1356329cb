#include "client/reports.h"

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/enum_label.h"

namespace moed {
namespace {

using Align = TextTable::Align;

constexpr int kBarWidth = 32;

/// What one expert did, over one layer or over all.
struct ExpertLoad {
  int64_t num_tokens = 0;
  std::set<int32_t> ranks;  // where its copies live
};

std::string RanksTable(const v1::GetStatusResponse& status) {
  TextTable table({{"rank"},
                   {"state", Align::kLeft},
                   {"pid"},
                   {"device", Align::kLeft},
                   {"isa", Align::kLeft},
                   {"dtype", Align::kLeft},
                   {"threads"},
                   {"weights"},
                   {"kv"},
                   {"exchange"},
                   {"workspace"},
                   {"blocks used"},
                   {"cached"},
                   {"running"},
                   {"restarts"}});
  for (const v1::RankStatus& rank : status.ranks()) {
    const bool loading = rank.up() && rank.weights_loaded_ratio() < 1;
    table.AddRow({absl::StrCat(rank.rank()),
                  loading     ? absl::StrFormat("loading %.0f%%", 100 * rank.weights_loaded_ratio())
                  : rank.up() ? "up"
                              : "down",
                  absl::StrCat(rank.pid()), ToValidUtf8(rank.device()),
                  ToValidUtf8(rank.instruction_set()), ToValidUtf8(rank.dtype()),
                  absl::StrCat(rank.num_threads()), FormatBytes(rank.weight_bytes()),
                  FormatBytes(rank.kv_bytes()), FormatBytes(rank.exchange_bytes()),
                  FormatBytes(rank.workspace_bytes()),
                  absl::StrCat(rank.num_blocks() - rank.num_free_blocks(), "/", rank.num_blocks()),
                  absl::StrCat(rank.num_cached_blocks()),
                  absl::StrCat(rank.num_running_sequences()), absl::StrCat(rank.num_restarts())});
  }
  return table.ToString();
}

std::vector<ExpertLoad> SumExperts(const std::vector<const v1::LayerExperts*>& layers,
                                   int num_experts) {
  std::vector<ExpertLoad> loads(static_cast<size_t>(std::max(0, num_experts)));
  for (const v1::LayerExperts* layer : layers) {
    const int num_counts = std::min(num_experts, layer->tokens_per_expert_size());
    for (int i = 0; i < num_counts; ++i) {
      loads[static_cast<size_t>(i)].num_tokens += layer->tokens_per_expert(i);
    }
    for (const v1::ExpertSlot& slot : layer->slots()) {
      if (slot.expert_id() < 0 || slot.expert_id() >= num_experts) continue;
      loads[static_cast<size_t>(slot.expert_id())].ranks.insert(slot.rank());
    }
  }
  return loads;
}

std::string ExpertsTable(const std::vector<ExpertLoad>& loads, Charset charset) {
  int64_t total = 0;
  int64_t most = 1;
  for (const ExpertLoad& load : loads) {
    total += load.num_tokens;
    most = std::max(most, load.num_tokens);
  }
  TextTable table(
      {{"expert"}, {"ranks", Align::kLeft}, {"tokens"}, {"share"}, {"load", Align::kLeft}});
  for (size_t expert = 0; expert < loads.size(); ++expert) {
    const double num_tokens = static_cast<double>(loads[expert].num_tokens);
    table.AddRow({absl::StrCat(expert), absl::StrJoin(loads[expert].ranks, ","),
                  absl::StrCat(loads[expert].num_tokens),
                  FormatPercent(num_tokens, static_cast<double>(total)),
                  Bar(num_tokens / static_cast<double>(most), kBarWidth, charset)});
  }
  return table.ToString();
}

std::string RankLoadTable(const v1::GetExpertsResponse& experts, Charset charset) {
  int64_t total = 0;
  int64_t most = 1;
  for (const int64_t rows : experts.rows_per_rank()) {
    total += rows;
    most = std::max(most, rows);
  }
  TextTable table({{"rank"}, {"rows"}, {"share"}, {"load", Align::kLeft}});
  for (int rank = 0; rank < experts.rows_per_rank_size(); ++rank) {
    const double rows = static_cast<double>(experts.rows_per_rank(rank));
    table.AddRow({absl::StrCat(rank), absl::StrCat(experts.rows_per_rank(rank)),
                  FormatPercent(rows, static_cast<double>(total)),
                  Bar(rows / static_cast<double>(most), kBarWidth, charset)});
  }
  return table.ToString();
}

std::string LayersTable(const v1::GetExpertsResponse& experts, Charset charset) {
  TextTable table(
      {{"layer"}, {"slots"}, {"tokens"}, {"busiest expert"}, {"balancedness"}, {"", Align::kLeft}});
  for (const v1::LayerExperts& layer : experts.layers()) {
    const auto& counts = layer.tokens_per_expert();
    int64_t total = 0;
    for (const int64_t count : counts) total += count;
    const auto busiest = std::max_element(counts.begin(), counts.end());
    table.AddRow({absl::StrCat(layer.layer()), absl::StrCat(layer.slots_size()),
                  absl::StrCat(total),
                  total > 0 ? absl::StrCat(busiest - counts.begin()) : std::string("-"),
                  absl::StrFormat("%.3f", layer.balancedness()),
                  Bar(layer.balancedness(), kBarWidth, charset)});
  }
  return table.ToString();
}

std::string ExpertsHeadline(const v1::GetExpertsResponse& experts) {
  return absl::StrFormat(
      "%d experts, top %d, placement epoch %d, balancedness %.3f, dispatched %s, combined %s\n",
      experts.num_experts(), experts.top_k(), experts.placement_epoch(), experts.balancedness(),
      FormatBytes(experts.dispatch_bytes()), FormatBytes(experts.combine_bytes()));
}

}  // namespace

std::string FormatStatus(const v1::GetStatusResponse& status) {
  std::string out = absl::StrFormat("%s: %s, version %s, up %s\n", ToValidUtf8(status.model()),
                                    Label(status.state()), ToValidUtf8(status.version()),
                                    FormatSeconds(status.uptime_seconds()));
  absl::StrAppendFormat(&out, "sequences: %d running, %d waiting, %d preemptions\n",
                        status.num_running_sequences(), status.num_waiting_sequences(),
                        status.num_preemptions());
  absl::StrAppendFormat(&out, "requests: %d finished; tokens: %d prompt, %d generated\n",
                        status.num_finished_requests(), status.num_prompt_tokens(),
                        status.num_generated_tokens());
  absl::StrAppendFormat(&out, "prefix cache: %s of %d tokens looked up\n",
                        FormatPercent(static_cast<double>(status.prefix_cache_hits()),
                                      static_cast<double>(status.prefix_cache_queries())),
                        status.prefix_cache_queries());
  absl::StrAppendFormat(&out, "steps: %d, %s each, planning %s; placement epoch %d\n\n",
                        status.num_steps(), FormatSeconds(status.mean_step_seconds()),
                        FormatSeconds(status.mean_plan_seconds()), status.placement_epoch());
  return out + RanksTable(status);
}

std::string FormatExperts(const v1::GetExpertsResponse& experts, const ExpertsView& view) {
  std::vector<const v1::LayerExperts*> layers;
  for (const v1::LayerExperts& layer : experts.layers()) {
    if (!view.layer.has_value() || layer.layer() == *view.layer) layers.push_back(&layer);
  }
  const std::string which =
      view.layer.has_value() ? absl::StrCat("layer ", *view.layer) : std::string("all layers");
  const std::string loads =
      layers.empty() ? absl::StrCat("no MoE layer ", view.layer.value_or(0), "\n")
                     : ExpertsTable(SumExperts(layers, experts.num_experts()), view.charset);
  return absl::StrCat(ExpertsHeadline(experts), "\n", RankLoadTable(experts, view.charset), "\n",
                      LayersTable(experts, view.charset), "\n", which, ":\n", loads);
}

std::string FormatModel(const v1::GetModelResponse& model) {
  const std::pair<const char*, std::string> lines[] = {
      {"name", ToValidUtf8(model.name())},
      {"architecture", ToValidUtf8(model.architecture())},
      {"dtype", ToValidUtf8(model.dtype())},
      {"vocabulary", absl::StrCat(model.vocab_size())},
      {"max model length", absl::StrCat(model.max_model_len())},
      {"layers", absl::StrCat(model.num_layers(), ", ", model.num_moe_layers(), " of them MoE")},
      {"experts", absl::StrCat(model.num_experts(), ", top ", model.top_k())},
      {"hidden size", absl::StrCat(model.hidden_size())},
      {"eos token ids", absl::StrJoin(model.eos_token_ids(), ", ")},
      {"bos token id", model.has_bos_token_id() ? absl::StrCat(model.bos_token_id()) : "none"},
      {"KV block size", absl::StrCat(model.kv_block_size())},
      {"server version", ToValidUtf8(model.server_version())}};
  std::string out;
  for (const auto& [name, value] : lines) absl::StrAppendFormat(&out, "%-17s %s\n", name, value);
  return out;
}

std::string FormatUsage(const v1::Usage& usage) {
  const double decode_seconds = usage.total_seconds() - usage.time_to_first_token_seconds();
  const std::string speed =
      usage.num_generated_tokens() > 1 && decode_seconds > 0
          ? absl::StrFormat(", %.1f tokens/s", (usage.num_generated_tokens() - 1) / decode_seconds)
          : "";
  return absl::StrFormat(
      "%d prompt tokens (%d cached), %d generated; queued %s, first token %s, "
      "total %s%s\n",
      usage.num_prompt_tokens(), usage.num_cached_tokens(), usage.num_generated_tokens(),
      FormatSeconds(usage.queue_seconds()), FormatSeconds(usage.time_to_first_token_seconds()),
      FormatSeconds(usage.total_seconds()), speed);
}

std::string FormatTiming(const v1::Timing& timing) {
  const v1::StepSeconds& prefill = timing.prefill();
  const v1::StepSeconds& decode = timing.decode();
  TextTable table({{"", Align::kLeft}, {"queue"}, {"prefill"}, {"decode"}});
  table.AddRow({"passed", FormatSeconds(timing.queue_seconds()),
                FormatSeconds(timing.prefill_seconds()), FormatSeconds(timing.decode_seconds())});
  table.AddRow({"steps", "", absl::StrCat(prefill.num_steps()), absl::StrCat(decode.num_steps())});
  using Seconds = double (v1::StepSeconds::*)() const;
  constexpr std::pair<const char*, Seconds> kRows[] = {
      {"planning", &v1::StepSeconds::plan},
      {"executing", &v1::StepSeconds::total},
      {"  attention", &v1::StepSeconds::attention},
      {"  route", &v1::StepSeconds::route},
      {"  dispatch", &v1::StepSeconds::dispatch},
      {"    waiting", &v1::StepSeconds::dispatch_wait},
      {"  experts", &v1::StepSeconds::experts},
      {"  combine", &v1::StepSeconds::combine},
      {"    waiting", &v1::StepSeconds::combine_wait},
      {"  head", &v1::StepSeconds::head},
      {"  sampling", &v1::StepSeconds::sampling}};
  for (const auto& [name, seconds] : kRows) {
    table.AddRow(
        {name, "", FormatSeconds((prefill.*seconds)()), FormatSeconds((decode.*seconds)())});
  }
  return table.ToString();
}

std::string FormatPieces(const v1::TokenizeResponse& response) {
  std::string out;
  for (int i = 0; i < response.token_ids_size(); ++i) {
    const std::string piece = i < response.pieces_size() ? response.pieces(i) : "";
    const bool is_utf8 = ToValidUtf8(piece) == piece;  // a token may be a part of a character
    absl::StrAppendFormat(&out, "%8d  \"%s\"\n", response.token_ids(i),
                          is_utf8 ? absl::Utf8SafeCEscape(piece) : absl::CEscape(piece));
  }
  return out;
}

}  // namespace moed
