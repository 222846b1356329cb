#include "server/live_requests.h"

#include <algorithm>
#include <utility>

#include "config/base/status_macros.h"

namespace moed {

void LiveRequests::StartScheduling(SchedulerOptions options, absl::Time now) {
  scheduler_ = std::make_unique<Scheduler>(std::move(options));
  for (const std::string& id : IdsInOrderOfArrival()) {
    if (absl::Status status = scheduler_->Add(requests_.at(id)->request()); !status.ok()) {
      Fail(id, status, now);
    }
  }
}

void LiveRequests::StopScheduling(const absl::Status& reason, absl::Time now) {
  if (!scheduler_) return;
  // The scheduler may have a step in flight: it is asked, but no longer told.
  const std::unique_ptr<Scheduler> old = std::move(scheduler_);
  const SchedulerCounters& counters = old->counters();
  past_counters_.num_preemptions += counters.num_preemptions;
  past_counters_.prefix_cache_queries += counters.prefix_cache_queries;
  past_counters_.prefix_cache_hits += counters.prefix_cache_hits;
  for (const std::string& id : IdsInOrderOfArrival()) {
    const RequestProgress progress = old->progress(id);
    if (!progress.started()) continue;
    const Entry active = Take(id).active;
    ReportEnd(active->Fail(reason, progress, now));
  }
}

void LiveRequests::Add(Request request, std::shared_ptr<RequestSink> sink, absl::Time now) {
  const std::string id = request.id;
  auto active = std::make_unique<ActiveRequest>(std::move(request), std::move(sink), tokenizer_,
                                                ++last_arrival_number_);
  absl::Status status;
  if (requests_.contains(id)) {
    status = absl::AlreadyExistsError("request id " + id + " is in use");
  } else if (scheduler_) {
    status = scheduler_->Add(active->request());
  }
  if (status.ok()) {
    if (active->request().output.timing) untimed_ids_.push_back(id);
    requests_.emplace(id, std::move(active));
  } else {
    ReportEnd(active->Fail(status, {}, now));
  }
}

LiveRequests::Taken LiveRequests::Take(const std::string& request_id) {
  const auto it = requests_.find(request_id);
  if (it == requests_.end()) return {};
  Taken taken{.active = std::move(it->second)};
  requests_.erase(it);
  if (!scheduler_) return taken;
  taken.progress = scheduler_->progress(taken.active->request().id);
  scheduler_->Remove(taken.active->request().id);
  return taken;
}

void LiveRequests::Fail(const std::string& request_id, const absl::Status& status, absl::Time now) {
  const auto [active, progress] = Take(request_id);
  if (active) ReportEnd(active->Fail(status, progress, now));
}

void LiveRequests::FailAll(const absl::Status& status, absl::Time now) {
  StopScheduling(status, now);
  for (const std::string& id : IdsInOrderOfArrival()) Fail(id, status, now);
}

void LiveRequests::ExpireDeadlines(absl::Time now) {
  if (!scheduler_) return;
  for (const std::string& id : scheduler_->Expired(now)) {
    const bool started = scheduler_->progress(id).started();
    Fail(id,
         absl::DeadlineExceededError(started
                                         ? "the request's deadline came while it was running"
                                         : "the request's deadline came while it waited its turn"),
         now);
  }
}

std::optional<PlannedStep> LiveRequests::Plan(absl::Time now) {
  std::optional<PlannedStep> step = scheduler_->Plan(now);
  std::erase_if(untimed_ids_, [this](const std::string& id) {
    const auto it = requests_.find(id);
    if (it == requests_.end()) return true;
    if (!scheduler_->progress(id).started()) return false;
    it->second->MarkFirstStep(totals_);
    return true;
  });
  return step;
}

void LiveRequests::AddToTotals(std::span<const StepResult> results, const StepCost& cost) {
  ++totals_.num_steps;
  totals_.plan_seconds += absl::ToDoubleSeconds(cost.plan_time);
  totals_.step_seconds += absl::ToDoubleSeconds(cost.step_time);
  const auto total = [](const StepResult& result) { return result.times.total; };
  AddTimes(std::ranges::max_element(results, {}, total)->times, totals_.times);
}

absl::StatusOr<LiveRequests::Applied> LiveRequests::Apply(std::span<const StepResult> results,
                                                          const StepCost& cost) {
  MOED_ASSIGN_OR_RETURN(std::vector<SequenceOutcome> outcomes, scheduler_->Apply(results));
  AddToTotals(results, cost);
  Applied applied;
  for (SequenceOutcome& outcome : outcomes) OnOutcome(outcome, cost.end, applied);
  EndRequests(outcomes, cost.end);
  return applied;
}

// Only after a step's last outcome may requests go: until then the outcomes refer to them.
void LiveRequests::EndRequests(const std::vector<SequenceOutcome>& outcomes, absl::Time now) {
  std::vector<std::string> full, finished;
  for (const SequenceOutcome& outcome : outcomes) {
    const ActiveRequest& active = *requests_.at(outcome.request->id);
    if (active.is_sink_full()) {
      full.push_back(outcome.request->id);
    } else if (active.is_finished()) {
      finished.push_back(outcome.request->id);
    }
  }
  for (const std::string& id : full) {
    Fail(id, absl::ResourceExhaustedError("the client is too slow: it left too much unread"), now);
  }
  for (const std::string& id : finished) Complete(id, now);
}

void LiveRequests::OnOutcome(SequenceOutcome& outcome, absl::Time now, Applied& applied) {
  const std::string& id = outcome.request->id;
  ActiveRequest& active = *requests_.at(id);
  if (!active.has_token()) {
    num_prompt_tokens_ += static_cast<int64_t>(outcome.request->prompt_token_ids.size());
    if (outcome.request->output.timing) active.MarkFirstToken(totals_);
  }
  ++num_generated_tokens_;
  const ActiveRequest::TokenEffect effect =
      active.OnToken(outcome.index, std::move(outcome.token), outcome.end, now);
  if (effect.was_stopped_by_text) scheduler_->Finish(id, outcome.index);
  if (effect.since_last_token) {
    applied.inter_token_seconds.push_back(absl::ToDoubleSeconds(*effect.since_last_token));
  }
}

// Does nothing for a request that two of its sequences have named.
void LiveRequests::Complete(const std::string& request_id, absl::Time now) {
  const auto [active, progress] = Take(request_id);
  if (!active) return;
  ++num_finished_requests_;
  ReportEnd(active->Complete(progress, totals_, now));
}

void LiveRequests::ReportEnd(const RequestOutcome& outcome) {
  if (metrics_) metrics_->OnRequestEnd(outcome);
}

WaitingLoad LiveRequests::waiting_load() const {
  if (scheduler_) return scheduler_->waiting_load();
  WaitingLoad load;
  for (const auto& [id, active] : requests_) {
    load.Add(active->request().tenant, LoadOf(active->request()));
  }
  return load;
}

void LiveRequests::FillStats(ServerStats& stats) const {
  stats.steps = totals_;
  stats.num_requests = num_requests();
  stats.num_prompt_tokens = num_prompt_tokens_;
  stats.num_generated_tokens = num_generated_tokens_;
  stats.num_finished_requests = num_finished_requests_;
  const SchedulerCounters counters = scheduler_ ? scheduler_->counters() : SchedulerCounters();
  stats.num_preemptions = past_counters_.num_preemptions + counters.num_preemptions;
  stats.prefix_cache_queries = past_counters_.prefix_cache_queries + counters.prefix_cache_queries;
  stats.prefix_cache_hits = past_counters_.prefix_cache_hits + counters.prefix_cache_hits;
  stats.num_running_sequences = scheduler_ ? scheduler_->num_running_sequences() : 0;
  stats.num_waiting_sequences = scheduler_ ? scheduler_->num_waiting_sequences() : num_requests();
  if (!scheduler_) return;
  stats.ranks.resize(scheduler_->num_ranks());
  for (int32_t rank = 0; rank < scheduler_->num_ranks(); ++rank) {
    const RankUsage usage = scheduler_->usage(rank);
    stats.ranks[rank].num_blocks = usage.num_blocks;
    stats.ranks[rank].num_free_blocks = usage.num_free_blocks;
    stats.ranks[rank].num_cached_blocks = usage.num_cached_blocks;
    stats.ranks[rank].num_running_sequences = usage.num_running_sequences;
  }
}

std::vector<std::string> LiveRequests::IdsInOrderOfArrival() const {
  std::vector<const ActiveRequest*> active;
  for (const auto& [id, entry] : requests_) active.push_back(entry.get());
  std::ranges::sort(active, {}, &ActiveRequest::arrival_number);
  std::vector<std::string> ids;
  for (const ActiveRequest* entry : active) ids.push_back(entry->request().id);
  return ids;
}

}  // namespace moed
