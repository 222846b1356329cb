#include "tests/fakes/fake_engine_group.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_format.h"
#include "config/base/status_macros.h"

namespace moed {
namespace {

// splitmix64's finalizer: the same on every platform and in every run.
uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

uint64_t Append(uint64_t past, int32_t token_id) {
  return Mix(past ^ static_cast<uint64_t>(token_id));
}

bool Contains(const std::vector<int32_t>& ids, int32_t id) {
  return std::ranges::find(ids, id) != ids.end();
}

absl::Status CheckCounts(const SampleRequest& request, const std::vector<int32_t>& tokens) {
  std::map<int32_t, int32_t> expected;
  if (request.params.UsesPenalties()) {
    for (const int32_t token : tokens) ++expected[token];
  }
  std::map<int32_t, int32_t> seen;
  for (const TokenCount& count : request.token_counts) {
    seen[count.token_id] += count.num_in_prompt + count.num_in_output;
  }
  if (seen == expected) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("token_counts of %d tokens do not add up", tokens.size()));
}

}  // namespace

int32_t FakeSample(std::span<const int32_t> token_ids, const SampleRequest& request,
                   int32_t vocab_size) {
  uint64_t past = 0;
  for (const int32_t token : token_ids) past = Append(past, token);
  if (request.params.temperature > 0) {
    past = Mix(past ^ Mix(request.params.seed) ^ Mix(~uint64_t{request.sequence_index}));
  }
  auto token = static_cast<int32_t>(Mix(past ^ static_cast<uint64_t>(request.position)) %
                                    static_cast<uint64_t>(vocab_size));
  const std::vector<int32_t>& allowed = request.params.allowed_token_ids;
  for (int32_t i = 0; i < vocab_size; ++i, token = (token + 1) % vocab_size) {
    const bool is_allowed = allowed.empty() || Contains(allowed, token);
    if (is_allowed && !Contains(request.banned_token_ids, token)) break;
  }
  return token;
}

FakeEngineGroup::FakeEngineGroup(FakeEngineOptions options) : options_(options) { ClearMemory(); }

void FakeEngineGroup::ClearMemory() {
  const auto num_slots = static_cast<size_t>(options_.num_blocks) * options_.block_size;
  ranks_.assign(options_.num_ranks, Rank{.slots = std::vector<Slot>(num_slots)});
  last_step_id_ = 0;
}

absl::Status FakeEngineGroup::Start() {
  absl::MutexLock lock(&mutex_);
  MOED_RETURN_IF_ERROR(start_failure_);
  for (int32_t rank = 0; rank < options_.num_ranks; ++rank) {
    infos_.push_back({.rank = rank,
                      .num_ranks = options_.num_ranks,
                      .device = "fake",
                      .block_size = options_.block_size,
                      .num_blocks = options_.num_blocks,
                      .max_tokens_per_step = options_.max_tokens_per_step,
                      .max_sequences_per_step = options_.max_sequences_per_step});
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<StepResult>> FakeEngineGroup::Execute(std::vector<StepPlan> plans) {
  MOED_RETURN_IF_ERROR(BeginStep());
  absl::Status status = CheckPlans(plans);
  std::vector<StepResult> results;
  for (size_t r = 0; r < plans.size() && status.ok(); ++r) {
    absl::StatusOr<StepResult> result = ExecuteRank(ranks_[r], plans[r]);
    status = result.status();
    if (result.ok()) results.push_back(*std::move(result));
  }
  if (status.ok()) return results;
  absl::MutexLock lock(&mutex_);
  violations_.emplace_back(status.message());
  return status;
}

absl::Status FakeEngineGroup::BeginStep() {
  bool hangs = false;
  {
    absl::MutexLock lock(&mutex_);
    ++num_steps_;
    MOED_RETURN_IF_ERROR(lost_);
    hangs = num_steps_ == hang_at_;
    if (num_steps_ == fail_at_) lost_ = step_failure_;
    MOED_RETURN_IF_ERROR(lost_);
  }
  return hangs ? WaitForCancel() : absl::OkStatus();
}

absl::Status FakeEngineGroup::WaitForCancel() {
  absl::MutexLock lock(&mutex_);
  is_hanging_ = true;
  mutex_.Await(absl::Condition(&is_cancelled_));
  is_hanging_ = false;
  return absl::CancelledError("the engine group was cancelled");
}

absl::Status FakeEngineGroup::CheckPlans(const std::vector<StepPlan>& plans) const {
  if (plans.size() != ranks_.size()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%d plans for %d ranks", plans.size(), ranks_.size()));
  }
  for (size_t r = 0; r < plans.size(); ++r) {
    MOED_RETURN_IF_ERROR(CheckPlan(static_cast<int32_t>(r), plans[r]));
    if (plans[r].step_id != plans[0].step_id || plans[r].step_id <= last_step_id_ ||
        plans[r].num_tokens_per_rank != plans[0].num_tokens_per_rank ||
        plans[r].placement_epoch != plans[0].placement_epoch) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "rank %d: its step id, epoch or token counts differ from rank 0's or are old", r));
    }
  }
  return absl::OkStatus();
}

absl::Status FakeEngineGroup::CheckPlan(int32_t rank_index, const StepPlan& plan) const {
  int32_t num_tokens = 0;
  std::set<uint64_t> sequences;
  for (const Slice& slice : plan.slices) {
    num_tokens += static_cast<int32_t>(slice.token_ids.size());
    if (!sequences.insert(slice.sequence_id).second) {
      return absl::InvalidArgumentError(
          absl::StrFormat("sequence %d has two slices", slice.sequence_id));
    }
    MOED_RETURN_IF_ERROR(CheckBlockTable(slice));
  }
  if (plan.num_tokens_per_rank.size() != ranks_.size() ||
      plan.num_tokens_per_rank[rank_index] != num_tokens ||
      num_tokens > options_.max_tokens_per_step ||
      static_cast<int32_t>(plan.slices.size()) > options_.max_sequences_per_step) {
    return absl::InvalidArgumentError(absl::StrFormat("rank %d: %d tokens in %d slices do not fit",
                                                      rank_index, num_tokens, plan.slices.size()));
  }
  return CheckWrites(plan);
}

absl::Status FakeEngineGroup::CheckBlockTable(const Slice& slice) const {
  const auto end = slice.start_position + static_cast<int32_t>(slice.token_ids.size());
  const auto num_needed = (end + options_.block_size - 1) / options_.block_size;
  const std::set<int32_t> distinct(slice.block_table.begin(), slice.block_table.end());
  const bool in_range = std::ranges::all_of(
      distinct, [&](int32_t id) { return id >= 0 && id < options_.num_blocks; });
  const bool ids_in_range = std::ranges::all_of(
      slice.token_ids, [&](int32_t id) { return id >= 0 && id < options_.vocab_size; });
  if (slice.start_position < 0 || slice.token_ids.empty() || !in_range || !ids_in_range ||
      static_cast<int32_t>(slice.block_table.size()) < num_needed ||
      distinct.size() != slice.block_table.size()) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "sequence %d: %d tokens from %d on with %d blocks (%d distinct)", slice.sequence_id,
        slice.token_ids.size(), slice.start_position, slice.block_table.size(), distinct.size()));
  }
  return absl::OkStatus();
}

// A block that a slice writes belongs to no other slice's table.
absl::Status FakeEngineGroup::CheckWrites(const StepPlan& plan) const {
  std::map<int32_t, uint64_t> writer;
  for (const Slice& slice : plan.slices) {
    const auto end = slice.start_position + static_cast<int32_t>(slice.token_ids.size());
    for (int32_t i = slice.start_position / options_.block_size; i * options_.block_size < end;
         ++i) {
      writer.emplace(slice.block_table[i], slice.sequence_id);
    }
  }
  for (const Slice& slice : plan.slices) {
    for (const int32_t block : slice.block_table) {
      const auto it = writer.find(block);
      if (it != writer.end() && it->second != slice.sequence_id) {
        return absl::InvalidArgumentError(
            absl::StrFormat("block %d is written by sequence %d and used by sequence %d", block,
                            it->second, slice.sequence_id));
      }
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<StepResult> FakeEngineGroup::ExecuteRank(Rank& rank, const StepPlan& plan) {
  StepResult result{.step_id = plan.step_id};
  result.tokens_per_expert.assign(
      static_cast<size_t>(options_.num_moe_layers) * options_.num_experts, 0);
  for (const Slice& slice : plan.slices) {
    MOED_ASSIGN_OR_RETURN(std::vector<int32_t> tokens, ReadPast(rank, slice));
    Write(rank, slice);
    tokens.insert(tokens.end(), slice.token_ids.begin(), slice.token_ids.end());
    MOED_RETURN_IF_ERROR(CheckKnown(rank, slice.sequence_id, tokens));
    for (const int32_t token : slice.token_ids) {
      for (int32_t layer = 0; layer < options_.num_moe_layers; ++layer) {
        ++result.tokens_per_expert[layer * options_.num_experts + token % options_.num_experts];
        ++result.num_expert_rows;
      }
    }
    if (!slice.sample) continue;
    MOED_RETURN_IF_ERROR(CheckCounts(*slice.sample, tokens));
    if (slice.sample->position != static_cast<int64_t>(tokens.size())) {
      return absl::InvalidArgumentError(absl::StrFormat("sequence %d: position %d after %d tokens",
                                                        slice.sequence_id, slice.sample->position,
                                                        tokens.size()));
    }
    result.sampled.push_back(Sample(slice.sequence_id, tokens, *slice.sample));
    rank.known_sequences[slice.sequence_id].push_back(result.sampled.back().token_id);
  }
  last_step_id_ = plan.step_id;
  result.times.total = 1e-6 * static_cast<double>(result.num_expert_rows);
  return result;
}

absl::StatusOr<std::vector<int32_t>> FakeEngineGroup::ReadPast(const Rank& rank,
                                                               const Slice& slice) const {
  std::vector<int32_t> tokens;
  uint64_t past = 0;
  for (int32_t position = 0; position < slice.start_position; ++position) {
    const Slot& slot =
        rank.slots[slice.block_table[position / options_.block_size] * options_.block_size +
                   position % options_.block_size];
    past = Append(past, slot.token_id);
    if (!slot.is_written || slot.position != position || slot.past != past) {
      return absl::InvalidArgumentError(
          absl::StrFormat("sequence %d: attention would read foreign KV at position %d",
                          slice.sequence_id, position));
    }
    tokens.push_back(slot.token_id);
  }
  return tokens;
}

void FakeEngineGroup::Write(Rank& rank, const Slice& slice) const {
  const auto slot_at = [&](int32_t position) -> Slot& {
    return rank.slots[slice.block_table[position / options_.block_size] * options_.block_size +
                      position % options_.block_size];
  };
  int32_t position = slice.start_position;
  uint64_t past = position == 0 ? 0 : slot_at(position - 1).past;
  for (const int32_t token : slice.token_ids) {
    past = Append(past, token);
    slot_at(position) = {.is_written = true, .token_id = token, .position = position, .past = past};
    ++position;
  }
}

// The tokens of one sequence never change; they only become more.
absl::Status FakeEngineGroup::CheckKnown(Rank& rank, uint64_t sequence_id,
                                         const std::vector<int32_t>& tokens) {
  std::vector<int32_t>& known = rank.known_sequences[sequence_id];
  const size_t num_common = std::min(known.size(), tokens.size());
  if (!std::equal(known.begin(), known.begin() + static_cast<ptrdiff_t>(num_common),
                  tokens.begin())) {
    return absl::InvalidArgumentError(
        absl::StrFormat("sequence %d: its tokens have changed", sequence_id));
  }
  known = tokens.size() > known.size() ? tokens : known;
  return absl::OkStatus();
}

SampledToken FakeEngineGroup::Sample(uint64_t sequence_id, const std::vector<int32_t>& tokens,
                                     const SampleRequest& request) const {
  SampledToken sampled{.sequence_id = sequence_id};
  sampled.token_id = FakeSample(tokens, request, options_.vocab_size);
  if (request.params.num_top_logprobs < 0) return sampled;
  sampled.logprob = -0.25f;
  for (int32_t i = 0; i < request.params.num_top_logprobs; ++i) {
    sampled.top_logprobs.push_back({(sampled.token_id + i) % options_.vocab_size, -0.25f - i});
  }
  return sampled;
}

absl::Status FakeEngineGroup::Restart() {
  bool hangs = false;
  {
    absl::MutexLock lock(&mutex_);
    ++num_restarts_;
    if (num_failing_restarts_ > 0) {
      --num_failing_restarts_;
      return absl::UnavailableError("the engines do not start again");
    }
    hangs = std::exchange(hang_restart_, false);
    lost_ = absl::OkStatus();
  }
  if (hangs) return WaitForCancel();
  ClearMemory();
  return absl::OkStatus();
}

void FakeEngineGroup::SetDeathCallback(std::function<void()> callback) {
  absl::MutexLock lock(&mutex_);
  death_callback_ = std::move(callback);
}

void FakeEngineGroup::Cancel() {
  absl::MutexLock lock(&mutex_);
  is_cancelled_ = true;
}

void FakeEngineGroup::FailAtStep(int64_t number, absl::Status status) {
  absl::MutexLock lock(&mutex_);
  fail_at_ = number;
  step_failure_ = std::move(status);
}

void FakeEngineGroup::HangAtStep(int64_t number) {
  absl::MutexLock lock(&mutex_);
  hang_at_ = number;
}

void FakeEngineGroup::FailStart(absl::Status status) {
  absl::MutexLock lock(&mutex_);
  start_failure_ = std::move(status);
}

void FakeEngineGroup::FailRestarts(int32_t count) {
  absl::MutexLock lock(&mutex_);
  num_failing_restarts_ = count;
}

void FakeEngineGroup::HangRestart() {
  absl::MutexLock lock(&mutex_);
  hang_restart_ = true;
}

void FakeEngineGroup::Die() {
  std::function<void()> callback;
  {
    absl::MutexLock lock(&mutex_);
    lost_ = absl::UnavailableError("a rank died");
    callback = death_callback_;
  }
  if (callback) callback();
}

void FakeEngineGroup::AwaitSteps(int64_t number) const {
  const auto reached = [this, number]()
                           ABSL_NO_THREAD_SAFETY_ANALYSIS { return num_steps_ >= number; };
  absl::MutexLock lock(&mutex_, absl::Condition(&reached));
}

void FakeEngineGroup::AwaitHang() const {
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(&is_hanging_));
}

int64_t FakeEngineGroup::num_steps() const {
  absl::MutexLock lock(&mutex_);
  return num_steps_;
}

int32_t FakeEngineGroup::num_restarts() const {
  absl::MutexLock lock(&mutex_);
  return num_restarts_;
}

std::vector<std::string> FakeEngineGroup::violations() const {
  absl::MutexLock lock(&mutex_);
  return violations_;
}

}  // namespace moed
