#include "engine/bench/bench_plan.h"

#include <algorithm>
#include <utility>

namespace moed {
namespace {

int32_t NumBlocks(int64_t num_positions) {
  return static_cast<int32_t>((num_positions + kBenchBlockSize - 1) / kBenchBlockSize);
}

}  // namespace

KvLayout MakeKvLayout(const BenchOptions& options) {
  KvLayout layout;
  if (options.shared_prompt) layout.num_shared_blocks = options.num_prompt_tokens / kBenchBlockSize;
  layout.num_own_blocks = NumBlocks(NumPositions(options)) - layout.num_shared_blocks;
  layout.num_sequences = MaxSequencesPerRank(options);
  if (options.num_mixed_tokens > 0) layout.num_mixed_blocks = NumBlocks(options.num_prompt_tokens);
  return layout;
}

StepLoad& StepLoad::operator+=(const StepLoad& other) {
  num_prompt_tokens += other.num_prompt_tokens;
  num_decoded_tokens += other.num_decoded_tokens;
  num_sampled += other.num_sampled;
  num_working_ranks += other.num_working_ranks;
  num_sampling_ranks += other.num_sampling_ranks;
  num_kv_positions += other.num_kv_positions;
  num_attention_pairs += other.num_attention_pairs;
  return *this;
}

/// A step on the way, and what the ranks have of it.
struct BenchPlanner::Building {
  explicit Building(int32_t num_ranks)
      : tokens_per_rank(num_ranks, 0), shared_positions(num_ranks, 0), samples(num_ranks, 0) {
    step.plans.resize(num_ranks);
  }

  BenchStep step;
  std::vector<int32_t> tokens_per_rank;
  std::vector<int32_t> shared_positions;  // read by any slice of the rank
  std::vector<int32_t> samples;
};

BenchPlanner::BenchPlanner(const BenchOptions& options, int32_t batch, int32_t vocab_size)
    : options_(options),
      batch_(batch),
      layout_(MakeKvLayout(options)),
      any_token_(0, vocab_size - 1),
      rng_(options.seed),
      num_computed_(batch + 1, 0) {}

void BenchPlanner::Restart(uint64_t seed) {
  rng_.seed(seed);
  std::fill(num_computed_.begin(), num_computed_.end(), 0);
}

std::optional<BenchStep> BenchPlanner::PlanPrompt() {
  ShareComputedPrompts();
  Building building(options_.num_ranks);
  for (int32_t id = 0; id < batch_; ++id) {
    const int32_t rank = RankOf(id);
    const bool waits = SharesPrompt(id) && id >= options_.num_ranks && num_computed_[id] == 0;
    const int32_t room = MaxPromptTokensPerStep(options_) - building.tokens_per_rank[rank];
    const int32_t num_new = std::min(options_.num_prompt_tokens - num_computed_[id], room);
    if (waits || num_new <= 0) continue;
    building.step.load.num_prompt_tokens += num_new;
    AddSlice(building, id, num_new);
  }
  if (building.step.load.num_prompt_tokens == 0) return std::nullopt;
  return Finish(std::move(building));
}

/// Sequences go on where the shared blocks end once the first of their rank has filled those in an
/// earlier step.
void BenchPlanner::ShareComputedPrompts() {
  const int32_t shared = layout_.num_shared_positions();
  for (int32_t id = options_.num_ranks; id < batch_; ++id) {
    if (num_computed_[RankOf(id)] >= shared) {
      num_computed_[id] = std::max(num_computed_[id], shared);
    }
  }
}

BenchStep BenchPlanner::PlanGeneration() {
  Building building(options_.num_ranks);
  AddDecodes(building);
  return Finish(std::move(building));
}

std::optional<BenchStep> BenchPlanner::PlanMixed() {
  const int32_t num_left = options_.num_prompt_tokens - num_computed_[batch_];
  if (num_left <= 0 || options_.num_mixed_tokens == 0) return std::nullopt;
  Building building(options_.num_ranks);
  AddDecodes(building);
  const int32_t num_new = std::min(num_left, options_.num_mixed_tokens);
  building.step.load.num_prompt_tokens += num_new;
  AddSlice(building, batch_, num_new);
  return Finish(std::move(building));
}

void BenchPlanner::AddDecodes(Building& building) {
  for (int32_t id = 0; id < batch_; ++id) AddSlice(building, id, 1);
  building.step.load.num_decoded_tokens += batch_;
}

void BenchPlanner::AddSlice(Building& building, int32_t id, int32_t num_new) {
  const int32_t start = num_computed_[id];
  const int32_t end = start + num_new;
  Slice slice{.sequence_id = static_cast<uint64_t>(id), .start_position = start};
  for (int32_t i = 0; i < num_new; ++i) slice.token_ids.push_back(any_token_(rng_));
  for (int32_t i = 0; i < NumBlocks(end); ++i) slice.block_table.push_back(BlockOf(id, i));
  const int32_t rank = RankOf(id);
  if (end >= options_.num_prompt_tokens) {
    slice.sample = SampleRequest{.params = {.temperature = 0.0f}, .position = end};
    ++building.samples[rank];
  }
  const int32_t shared = SharesPrompt(id) ? std::min(end, layout_.num_shared_positions()) : 0;
  building.shared_positions[rank] = std::max(building.shared_positions[rank], shared);
  building.step.load.num_kv_positions += end - shared;
  building.step.load.num_attention_pairs +=
      int64_t{num_new} * start + int64_t{num_new} * (num_new + 1) / 2;
  building.tokens_per_rank[rank] += num_new;
  building.step.plans[rank].slices.push_back(std::move(slice));
  num_computed_[id] = end;
}

int32_t BenchPlanner::BlockOf(int32_t id, int32_t index) const {
  const int32_t first_own = layout_.num_shared_blocks;
  if (id == batch_) return first_own + layout_.num_own_blocks * layout_.num_sequences + index;
  if (index < first_own) return index;
  const int32_t index_on_rank = id / options_.num_ranks;
  return first_own + index_on_rank * layout_.num_own_blocks + (index - first_own);
}

BenchStep BenchPlanner::Finish(Building building) {
  StepLoad& load = building.step.load;
  for (int32_t rank = 0; rank < options_.num_ranks; ++rank) {
    StepPlan& plan = building.step.plans[rank];
    plan.step_id = num_steps_;
    plan.num_tokens_per_rank = building.tokens_per_rank;
    load.num_sampled += building.samples[rank];
    load.num_working_ranks += building.tokens_per_rank[rank] > 0 ? 1 : 0;
    load.num_sampling_ranks += building.samples[rank] > 0 ? 1 : 0;
    load.num_kv_positions += building.shared_positions[rank];
  }
  ++num_steps_;
  return std::move(building.step);
}

}  // namespace moed
