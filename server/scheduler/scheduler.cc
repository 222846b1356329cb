#include "server/scheduler/scheduler.h"

#include <algorithm>
#include <iterator>
#include <numeric>
#include <utility>

#include "absl/strings/str_format.h"
#include "config/base/check.h"
#include "config/base/status_macros.h"
#include "server/scheduler/planning_order.h"

namespace moed {

Scheduler::Scheduler(SchedulerOptions options) : options_(std::move(options)) {
  MOED_CHECK(!options_.num_blocks.empty() && options_.max_tokens_per_step >= 1 &&
             options_.max_sequences_per_step >= 1);
  for (const int32_t num_blocks : options_.num_blocks) {
    ranks_.push_back({.kv = KvBlockManager(num_blocks, options_.block_size)});
  }
}

absl::Status Scheduler::Add(const Request& request) {
  MOED_RETURN_IF_ERROR(CheckFits(options_, request));
  auto [it, is_new] = requests_.try_emplace(request.id, std::make_unique<ScheduledRequest>());
  if (!is_new) {
    return absl::AlreadyExistsError(absl::StrFormat("request id %s is in use", request.id));
  }
  ScheduledRequest& scheduled = *it->second;
  scheduled.request = &request;
  scheduled.tenant = &tenants_.Enter(request.tenant);
  scheduled.arrival_number = ++last_arrival_number_;
  const auto num_prompt = static_cast<int32_t>(request.prompt_token_ids.size());
  scheduled.max_tokens = std::min(request.stopping.max_tokens, options_.max_model_len - num_prompt);
  for (int32_t index = 0; index < request.num_sequences; ++index) {
    auto sequence = std::make_unique<Sequence>();
    sequence->id = ++last_sequence_id_;
    sequence->owner = &scheduled;
    sequence->index = index;
    scheduled.tenant->waiting.insert(sequence.get());
    scheduled.sequences.push_back(std::move(sequence));
  }
  scheduled.tenant->queued += LoadOf(request);
  return absl::OkStatus();
}

void Scheduler::Remove(const std::string& request_id) {
  MOED_CHECK(!is_step_in_flight_);
  const auto it = requests_.find(request_id);
  if (it == requests_.end()) return;
  ScheduledRequest& scheduled = *it->second;
  for (const auto& sequence : scheduled.sequences) End(*sequence);
  if (!scheduled.progress.started()) scheduled.tenant->queued -= LoadOf(*scheduled.request);
  --scheduled.tenant->num_requests;
  requests_.erase(it);
}

void Scheduler::Finish(const std::string& request_id, int32_t index) {
  MOED_CHECK(!is_step_in_flight_);
  End(*requests_.at(request_id)->sequences.at(index));
}

void Scheduler::End(Sequence& sequence) {
  if (sequence.state == SequenceState::kWaiting) sequence.owner->tenant->waiting.erase(&sequence);
  if (sequence.state == SequenceState::kRunning) {
    Rank& rank = ranks_[sequence.rank];
    rank.kv.Release(sequence.table);
    rank.running.erase(&sequence);
  }
  sequence.state = SequenceState::kFinished;
}

std::vector<std::string> Scheduler::Expired(absl::Time now) const {
  std::vector<std::string> ids;
  for (const auto& [id, scheduled] : requests_) {
    const bool is_live = std::ranges::any_of(scheduled->sequences, [](const auto& sequence) {
      return sequence->state != SequenceState::kFinished;
    });
    if (is_live && scheduled->request->deadline <= now) ids.push_back(id);
  }
  return ids;
}

std::optional<PlannedStep> Scheduler::Plan(absl::Time now) {
  MOED_CHECK(!is_step_in_flight_);
  for (Rank& rank : ranks_) {
    rank.slices.clear();
    rank.num_tokens_left = options_.max_tokens_per_step;
    PlanDecodes(rank);
    PlanPrefills(rank);
  }
  AdmitWaiting(now);
  if (std::ranges::all_of(ranks_, [](const Rank& rank) { return rank.slices.empty(); })) {
    return std::nullopt;
  }
  is_step_in_flight_ = true;
  return BuildStep();
}

void Scheduler::PlanDecodes(Rank& rank) {
  std::vector<Sequence*> order = DecodeOrder(rank.running);
  for (size_t i = 0; i < order.size(); ++i) {
    if (rank.num_tokens_left == 0) return;
    Sequence& sequence = *order[i];
    if (!sequence.IsDecoding()) continue;
    // Victims come from the end of the order: they are planned later than this one, or are this
    // one.
    if (!MakeRoom(rank, sequence, order)) return;
    AddSlice(rank, sequence);
  }
}

void Scheduler::PlanPrefills(Rank& rank) {
  for (Sequence* sequence : PrefillOrder(rank.running)) {
    if (rank.num_tokens_left == 0) return;
    AddSlice(rank, *sequence);
  }
}

// Takes victims off the end of `order`. False when `sequence` had to be preempted itself.
bool Scheduler::MakeRoom(Rank& rank, Sequence& sequence, std::vector<Sequence*>& order) {
  while (!rank.kv.Extend(sequence.table, sequence.num_tokens())) {
    Sequence& victim = *order.back();
    order.pop_back();
    Preempt(rank, victim);
    if (&victim == &sequence) return false;
  }
  return true;
}

void Scheduler::Preempt(Rank& rank, Sequence& sequence) {
  rank.running.erase(&sequence);
  rank.kv.Release(sequence.table);
  sequence.num_computed = 0;
  sequence.state = SequenceState::kWaiting;
  sequence.owner->tenant->waiting.insert(&sequence);
  ++sequence.owner->progress.num_preemptions;
  ++counters_.num_preemptions;
}

void Scheduler::AdmitWaiting(absl::Time now) {
  std::vector<Cursor> cursors = WaitingCursors();
  // Service changes with every admission. Among tenants that were served alike the first come is
  // first.
  const auto key = [](const Cursor& cursor) {
    return std::pair(cursor.tenant->service, (*cursor.next)->owner->arrival_number);
  };
  while (!cursors.empty()) {
    const auto cursor = std::ranges::min_element(cursors, {}, key);
    Sequence& sequence = **cursor->next;
    const std::optional<Admission> admission = ChooseRank(sequence);
    if (!admission) return;  // nobody overtakes it
    cursor->next = cursor->tenant->waiting.erase(cursor->next);
    Admit(sequence, *admission, now);
    SkipThoseThatWaitForAnother(*cursor);
    if (cursor->next == cursor->tenant->waiting.end()) cursors.erase(cursor);
  }
}

std::vector<Scheduler::Cursor> Scheduler::WaitingCursors() {
  std::vector<Cursor> cursors;
  for (auto& [name, tenant] : tenants_.all()) {
    Cursor cursor{.tenant = &tenant, .next = tenant.waiting.begin()};
    SkipThoseThatWaitForAnother(cursor);
    if (cursor.next != tenant.waiting.end()) cursors.push_back(cursor);
  }
  return cursors;
}

void Scheduler::SkipThoseThatWaitForAnother(Cursor& cursor) const {
  while (cursor.next != cursor.tenant->waiting.end() && WaitsForFirstSequence(**cursor.next)) {
    ++cursor.next;
  }
}

bool Scheduler::WaitsForFirstSequence(const Sequence& sequence) const {
  const ScheduledRequest& owner = *sequence.owner;
  return sequence.index > 0 && !owner.is_prompt_computed &&
         owner.sequences.front()->state != SequenceState::kFinished && UsesPrefixCache(sequence) &&
         static_cast<int32_t>(owner.request->prompt_token_ids.size()) > options_.block_size;
}

std::optional<Scheduler::Admission> Scheduler::ChooseRank(const Sequence& sequence) const {
  std::optional<Admission> best;
  for (int32_t rank = 0; rank < num_ranks(); ++rank) {
    std::optional<Admission> admission = TryRank(rank, sequence);
    if (admission && (!best || admission->cost < best->cost)) best = std::move(admission);
  }
  return best;
}

// The cost of a rank: the tokens it would have to compute soon, plus its blocks in use. A block's
// worth of context is read in every step to come and weighs as much as one token to compute. A
// cached prefix lowers the cost by what it saves, and so decides unless it would unbalance the
// ranks.
std::optional<Scheduler::Admission> Scheduler::TryRank(int32_t rank_index,
                                                       const Sequence& sequence) const {
  const Rank& rank = ranks_[rank_index];
  const auto num_running = static_cast<int32_t>(rank.running.size());
  // A running sequence computes a token in every step, so the budget bounds their number as well.
  if (rank.num_tokens_left == 0 ||
      num_running >= std::min(options_.max_sequences_per_step, options_.max_tokens_per_step)) {
    return std::nullopt;
  }
  Admission admission{.rank = rank_index};
  if (UsesPrefixCache(sequence)) {
    admission.match = rank.kv.FindPrefix(sequence.tokens(), sequence.owner->request->cache_salt);
  }
  const auto num_cached = static_cast<int32_t>(admission.match.block_ids.size());
  const int32_t num_new = rank.kv.NumBlocksFor(sequence.num_tokens()) - num_cached;
  const int32_t num_free_after =
      rank.kv.num_free_blocks() - admission.match.num_unreferenced - num_new;
  // One block in reserve for each running sequence, or they would soon have to preempt this one.
  if (num_free_after < num_running) return std::nullopt;
  admission.cost = std::transform_reduce(
      rank.running.begin(), rank.running.end(), int64_t{0}, std::plus<>(),
      [](const Sequence* running) { return int64_t{running->num_uncomputed()}; });
  admission.cost += rank.kv.num_blocks() - rank.kv.num_free_blocks();
  admission.cost += sequence.num_tokens() - int64_t{num_cached} * options_.block_size;
  return admission;
}

void Scheduler::Admit(Sequence& sequence, const Admission& admission, absl::Time now) {
  Rank& rank = ranks_[admission.rank];
  sequence.num_computed = rank.kv.AttachPrefix(admission.match, sequence.table);
  const bool has_blocks = rank.kv.Extend(sequence.table, sequence.num_tokens());
  MOED_CHECK(has_blocks);  // TryRank counted them
  sequence.rank = admission.rank;
  sequence.state = SequenceState::kRunning;
  rank.running.insert(&sequence);
  RecordAdmission(sequence, sequence.num_computed, now);
  AddSlice(rank, sequence);
}

void Scheduler::RecordAdmission(Sequence& sequence, int32_t num_cached_tokens, absl::Time now) {
  RequestProgress& progress = sequence.owner->progress;
  if (!sequence.was_admitted && UsesPrefixCache(sequence)) {
    counters_.prefix_cache_queries += sequence.num_tokens();
    counters_.prefix_cache_hits += num_cached_tokens;
  }
  if (!sequence.was_admitted) {
    const Request& request = *sequence.owner->request;
    sequence.token_ids = request.prompt_token_ids;
    if (request.sampling.UsesPenalties()) sequence.counter.AddPrompt(request.prompt_token_ids);
  }
  sequence.was_admitted = true;
  if (progress.started()) return;
  sequence.owner->admission_number = ++last_admission_number_;
  progress.first_scheduled = now;
  progress.num_cached_tokens = num_cached_tokens;
  sequence.owner->tenant->queued -= LoadOf(*sequence.owner->request);
}

void Scheduler::AddSlice(Rank& rank, Sequence& sequence) {
  const int32_t num_new_tokens = std::min(sequence.num_uncomputed(), rank.num_tokens_left);
  rank.slices.push_back({&sequence, num_new_tokens});
  rank.num_tokens_left -= num_new_tokens;
  sequence.owner->tenant->service += num_new_tokens;
}

PlannedStep Scheduler::BuildStep() {
  PlannedStep step;
  std::vector<int32_t> num_tokens_per_rank;
  for (const Rank& rank : ranks_) {
    num_tokens_per_rank.push_back(options_.max_tokens_per_step - rank.num_tokens_left);
    step.num_tokens += num_tokens_per_rank.back();
  }
  ++last_step_id_;
  for (const Rank& rank : ranks_) {
    StepPlan& plan = step.plans.emplace_back();
    plan.step_id = last_step_id_;
    plan.placement_epoch = options_.placement_epoch;
    plan.num_tokens_per_rank = num_tokens_per_rank;
    for (const PlannedSlice& planned : rank.slices) {
      plan.slices.push_back(MakeSlice(planned));
      step.num_prefill_tokens += planned.sequence->IsDecoding() ? 0 : planned.num_new_tokens;
    }
  }
  return step;
}

Slice Scheduler::MakeSlice(const PlannedSlice& planned) const {
  const Sequence& sequence = *planned.sequence;
  const int32_t end = sequence.num_computed + planned.num_new_tokens;
  Slice slice;
  slice.sequence_id = sequence.id;
  slice.start_position = sequence.num_computed;
  slice.token_ids.assign(sequence.token_ids.begin() + sequence.num_computed,
                         sequence.token_ids.begin() + end);
  const int32_t num_blocks = ranks_[sequence.rank].kv.NumBlocksFor(end);
  slice.block_table.assign(sequence.table.block_ids.begin(),
                           sequence.table.block_ids.begin() + num_blocks);
  if (end == sequence.num_tokens()) slice.sample = MakeSampleRequest(sequence);
  return slice;
}

SampleRequest Scheduler::MakeSampleRequest(const Sequence& sequence) const {
  const Request& request = *sequence.owner->request;
  SampleRequest sample;
  sample.params = request.sampling;
  sample.sequence_index = static_cast<uint32_t>(sequence.index);
  sample.position = sequence.num_tokens();
  if (request.sampling.UsesPenalties()) sample.token_counts = sequence.counter.counts();
  sample.banned_token_ids = options_.hole_token_ids;
  if (sequence.num_generated() < request.stopping.min_tokens) {
    const std::vector<int32_t>& stops = request.stopping.stop_token_ids;
    sample.banned_token_ids.insert(sample.banned_token_ids.end(), stops.begin(), stops.end());
    if (!request.stopping.ignore_eos) {
      sample.banned_token_ids.insert(sample.banned_token_ids.end(), options_.eos_token_ids.begin(),
                                     options_.eos_token_ids.end());
    }
  }
  return sample;
}

absl::StatusOr<std::vector<SequenceOutcome>> Scheduler::Apply(std::span<const StepResult> results) {
  MOED_CHECK(is_step_in_flight_);
  MOED_RETURN_IF_ERROR(CheckResults(results));
  is_step_in_flight_ = false;
  std::vector<SequenceOutcome> outcomes;
  for (int32_t r = 0; r < num_ranks(); ++r) {
    auto next = results[r].sampled.begin();
    for (const PlannedSlice& planned : ranks_[r].slices) {
      ApplyComputed(ranks_[r], planned);
      if (planned.sequence->num_uncomputed() > 0) continue;
      outcomes.push_back(ApplyToken(*planned.sequence, *next++));
    }
    ranks_[r].slices.clear();
  }
  return outcomes;
}

absl::Status Scheduler::CheckResults(std::span<const StepResult> results) const {
  if (results.size() != ranks_.size()) {
    return absl::InternalError(absl::StrFormat("step %d: %d results came back from %d ranks",
                                               last_step_id_, results.size(), num_ranks()));
  }
  for (int32_t r = 0; r < num_ranks(); ++r) MOED_RETURN_IF_ERROR(CheckResult(r, results[r]));
  return absl::OkStatus();
}

absl::Status Scheduler::CheckResult(int32_t rank_index, const StepResult& result) const {
  if (result.step_id != last_step_id_) {
    return absl::InternalError(absl::StrFormat("step %d: rank %d answered for step %d",
                                               last_step_id_, rank_index, result.step_id));
  }
  std::vector<uint64_t> expected;
  for (const auto& [sequence, num_new_tokens] : ranks_[rank_index].slices) {
    if (num_new_tokens == sequence->num_uncomputed()) expected.push_back(sequence->id);
  }
  if (result.sampled.size() != expected.size()) {
    return absl::InternalError(absl::StrFormat("step %d: rank %d sampled %d tokens, expected %d",
                                               last_step_id_, rank_index, result.sampled.size(),
                                               expected.size()));
  }
  for (size_t i = 0; i < expected.size(); ++i) {
    const SampledToken& token = result.sampled[i];
    if (token.sequence_id == expected[i] && token.token_id >= 0 &&
        token.token_id < options_.vocab_size) {
      continue;
    }
    return absl::InternalError(absl::StrFormat(
        "step %d: rank %d sampled token %d for sequence %d, expected one of %d for sequence %d",
        last_step_id_, rank_index, token.token_id, token.sequence_id, options_.vocab_size,
        expected[i]));
  }
  return absl::OkStatus();
}

void Scheduler::ApplyComputed(Rank& rank, const PlannedSlice& planned) {
  Sequence& sequence = *planned.sequence;
  sequence.num_computed += planned.num_new_tokens;
  const Request& request = *sequence.owner->request;
  if (UsesPrefixCache(sequence)) {
    rank.kv.Publish(sequence.table, sequence.token_ids, sequence.num_computed, request.cache_salt);
  }
  if (sequence.num_computed >= static_cast<int32_t>(request.prompt_token_ids.size())) {
    sequence.owner->is_prompt_computed = true;
  }
}

SequenceOutcome Scheduler::ApplyToken(Sequence& sequence, const SampledToken& token) {
  const Request& request = *sequence.owner->request;
  sequence.token_ids.push_back(token.token_id);
  if (request.sampling.UsesPenalties()) sequence.counter.AddOutput(token.token_id);
  SequenceOutcome outcome{.request = &request, .index = sequence.index, .token = token};
  outcome.end = EndOf(sequence);
  if (outcome.end) End(sequence);
  return outcome;
}

std::optional<SequenceEnd> Scheduler::EndOf(const Sequence& sequence) const {
  const StoppingParams& stopping = sequence.owner->request->stopping;
  const int32_t token = sequence.token_ids.back();
  const auto contains = [token](const std::vector<int32_t>& ids) {
    return std::ranges::find(ids, token) != ids.end();
  };
  if ((!stopping.ignore_eos && contains(options_.eos_token_ids)) ||
      contains(stopping.stop_token_ids)) {
    return SequenceEnd{FinishReason::kStop, token};
  }
  if (sequence.num_generated() >= sequence.owner->max_tokens) {
    return SequenceEnd{FinishReason::kLength, std::nullopt};
  }
  return std::nullopt;
}

bool Scheduler::UsesPrefixCache(const Sequence& sequence) const {
  return options_.prefix_caching && !sequence.owner->request->bypass_prefix_cache;
}

const RequestProgress& Scheduler::progress(const std::string& request_id) const {
  return requests_.at(request_id)->progress;
}

RankUsage Scheduler::usage(int32_t rank) const {
  const KvBlockManager& kv = ranks_[rank].kv;
  return {.num_blocks = kv.num_blocks(),
          .num_free_blocks = kv.num_free_blocks(),
          .num_cached_blocks = kv.num_cached_blocks(),
          .num_running_sequences = static_cast<int32_t>(ranks_[rank].running.size())};
}

int32_t Scheduler::num_running_sequences() const {
  int32_t sum = 0;
  for (const Rank& rank : ranks_) sum += static_cast<int32_t>(rank.running.size());
  return sum;
}

bool Scheduler::HasWork() const {
  return num_waiting_sequences() > 0 || num_running_sequences() > 0;
}

}  // namespace moed
