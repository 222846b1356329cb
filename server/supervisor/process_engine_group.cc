#include "server/supervisor/process_engine_group.h"

#include <algorithm>
#include <chrono>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "config/base/check.h"
#include "config/base/status_macros.h"
#include "config/logging.h"
#include "server/supervisor/cpu_assignment.h"
#include "server/supervisor/cpu_quota.h"
#include "server/supervisor/engine_checks.h"

namespace moed {
namespace {

/// How often a wait for the wire looks whether a process has ended without a word.
constexpr absl::Duration kLookInterval = absl::Milliseconds(50);
/// How long a failure waits for a better explanation than "the peer is missing".
constexpr absl::Duration kCauseTimeout = absl::Milliseconds(500);

/// A point in time that no change of the wall clock moves.
class Deadline {
 public:
  explicit Deadline(absl::Duration timeout) : timeout_(timeout) {}

  absl::Duration left() const {
    const auto elapsed = std::chrono::steady_clock::now() - start_;
    return std::max(absl::ZeroDuration(), timeout_ - absl::FromChrono(elapsed));
  }

 private:
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  const absl::Duration timeout_;
};

/// True for a failure that another rank's failure brings about.
bool MayBeConsequence(const absl::Status& status) {
  return absl::IsAborted(status) || absl::IsCancelled(status) || absl::IsUnavailable(status) ||
         absl::IsDeadlineExceeded(status);
}

absl::Status Cancelled() { return absl::CancelledError("the engine group was cancelled"); }

absl::Status Annotate(const std::string& doing, const absl::Status& status) {
  if (status.ok() || absl::IsCancelled(status)) return status;
  return absl::Status(status.code(), absl::StrCat(doing, ": ", status.message()));
}

/// "0, 2": the ranks that have no entry yet.
template <typename T>
std::string MissingRanks(const std::vector<std::optional<T>>& entries) {
  std::vector<size_t> missing;
  for (size_t rank = 0; rank < entries.size(); ++rank) {
    if (!entries[rank].has_value()) missing.push_back(rank);
  }
  return absl::StrJoin(missing, ", ");
}

template <typename T>
std::vector<T> TakeAll(std::vector<std::optional<T>> entries) {
  std::vector<T> out;
  for (std::optional<T>& entry : entries) out.push_back(*std::move(entry));
  return out;
}

std::vector<std::vector<int32_t>> ChooseCpus(const EngineConfig& engine) {
  const int32_t num_ranks = engine.placement.num_ranks;
  const absl::StatusOr<std::vector<int32_t>> allowed = AllowedCpus();
  if (!allowed.ok()) {
    SPDLOG_WARN("event=no_pinning reason=\"{}\"", std::string(allowed.status().message()));
    return std::vector<std::vector<int32_t>>(static_cast<size_t>(num_ranks));
  }
  // Who has a share of the time of all CPUs shares them with others, who would all pin to the
  // first.
  if (const std::optional<double> quota = CpuQuota(); quota && *quota < allowed->size()) {
    SPDLOG_INFO("event=no_pinning reason=\"a quota of {} on {} cpus\"", *quota, allowed->size());
    return std::vector<std::vector<int32_t>>(static_cast<size_t>(num_ranks));
  }
  std::vector<std::vector<int32_t>> cpus = AssignCpus(*allowed, num_ranks, engine.num_threads);
  if (cpus.front().empty()) {
    SPDLOG_WARN("event=no_pinning reason=\"{} ranks of {} threads on {} cpus\"", num_ranks,
                engine.num_threads, allowed->size());
  }
  return cpus;
}

}  // namespace

ProcessEngineGroup::ProcessEngineGroup(ProcessEngineGroupOptions options)
    : options_(std::move(options)) {
  MOED_CHECK(num_ranks() >= 1);
  absl::MutexLock lock(&mutex_);
  rank_processes_.resize(static_cast<size_t>(num_ranks()));
}

ProcessEngineGroup::~ProcessEngineGroup() { StopEngines(options_.stop_timeout); }

absl::Status ProcessEngineGroup::Start() {
  StopEngines(absl::ZeroDuration());
  absl::Status status = Annotate("starting the engines", StartEngines());
  if (cancelled()) status = Cancelled();
  if (!status.ok()) StopEngines(absl::ZeroDuration());
  return status;
}

absl::Status ProcessEngineGroup::Restart() {
  {
    absl::MutexLock lock(&mutex_);
    for (RankProcess& rank : rank_processes_) ++rank.num_restarts;
  }
  return Start();
}

absl::Status ProcessEngineGroup::StartEngines() {
  MOED_RETURN_IF_ERROR(EnterState(State::kStarting));
  MOED_RETURN_IF_ERROR(Spawn());
  MOED_RETURN_IF_ERROR(SendConfigs());
  MOED_RETURN_IF_ERROR(AwaitInfos());
  processes_->RemoveSockets();
  return EnterState(State::kIdle);
}

absl::Status ProcessEngineGroup::Spawn() {
  EngineProcessesOptions options{
      .binary = options_.engine_binary,
      .args = options_.engine_args,
      .num_ranks = num_ranks(),
      .max_exchange_bytes_per_rank = options_.engine.max_exchange_bytes_per_rank,
      .on_end = [this](int32_t rank, const ProcessEnd& end) { OnEnd(rank, end); }};
  if (options.binary.empty()) {
    MOED_ASSIGN_OR_RETURN(options.binary, PathBesideThisProgram("moed-engine"));
  }
  {
    absl::MutexLock lock(&mutex_);
    for (RankProcess& rank : rank_processes_) {
      rank = {.up = true, .num_restarts = rank.num_restarts};
    }
  }
  MOED_ASSIGN_OR_RETURN(processes_, EngineProcesses::Start(std::move(options)));
  auto clients = std::make_unique<EngineClients>(processes_->addresses());
  for (int32_t rank = 0; rank < num_ranks(); ++rank) {
    SPDLOG_INFO("event=engine_started rank={} pid={}", rank, processes_->pid(rank));
  }
  absl::MutexLock lock(&mutex_);
  for (int32_t rank = 0; rank < num_ranks(); ++rank) {
    rank_processes_[static_cast<size_t>(rank)].pid = processes_->pid(rank);
  }
  clients_ = std::move(clients);
  return cancelled_ ? Cancelled() : absl::OkStatus();
}

EngineConfig ProcessEngineGroup::ConfigOfRank(int32_t rank) const {
  EngineConfig config = options_.engine;
  config.rank = rank;
  if (config.device == "cuda") absl::StrAppend(&config.device, ":", rank);
  return config;
}

absl::Status ProcessEngineGroup::SendConfigs() {
  const std::vector<std::vector<int32_t>> cpus = ChooseCpus(options_.engine);
  for (int32_t rank = 0; rank < num_ranks(); ++rank) {
    EngineConfig config = ConfigOfRank(rank);
    config.cpus = cpus[static_cast<size_t>(rank)];
    MOED_RETURN_IF_ERROR(clients().SendConfig(rank, config));
  }
  return absl::OkStatus();
}

absl::Status ProcessEngineGroup::AwaitInfos() {
  const Deadline deadline(options_.load_timeout);
  std::vector<LoadProgressLog> logs(static_cast<size_t>(num_ranks()));
  std::vector<std::optional<EngineInfo>> infos(static_cast<size_t>(num_ranks()));
  while (std::count(infos.begin(), infos.end(), std::nullopt) > 0) {
    std::optional<EngineEvent> event = NextEvent(deadline.left());
    if (!event.has_value()) {
      return absl::DeadlineExceededError(absl::StrCat("ranks ", MissingRanks(infos),
                                                      " did not load within ",
                                                      absl::FormatDuration(options_.load_timeout)));
    }
    const size_t rank = static_cast<size_t>(event->rank);
    if (const auto* status = std::get_if<absl::Status>(&event->what)) {
      return FindCause({event->rank, *status});
    }
    MOED_RETURN_IF_ERROR(OnLoadEvent(*event, logs[rank]));
    if (auto* info = std::get_if<EngineInfo>(&event->what)) infos[rank] = std::move(*info);
  }
  infos_ = TakeAll(std::move(infos));
  return absl::OkStatus();
}

absl::Status ProcessEngineGroup::OnLoadEvent(const EngineEvent& event, LoadProgressLog& log) {
  if (const auto* progress = std::get_if<LoadProgress>(&event.what)) {
    OnProgress(event.rank, *progress, log);
    return absl::OkStatus();
  }
  if (const auto* group = std::get_if<GroupName>(&event.what))
    return OnGroupName(event.rank, *group);
  if (const auto* info = std::get_if<EngineInfo>(&event.what)) return OnInfo(event.rank, *info);
  return absl::InternalError(absl::StrCat("rank ", event.rank, " sent a result while loading"));
}

/// Rank 0 waits for the others: they join what it has named.
absl::Status ProcessEngineGroup::OnGroupName(int32_t rank, const GroupName& group) {
  if (rank != 0) {
    return absl::InternalError(
        absl::StrCat("rank ", rank, " named the group of ranks, expected rank 0 to"));
  }
  for (int32_t other = 1; other < num_ranks(); ++other) {
    MOED_RETURN_IF_ERROR(clients().SendGroupName(other, group));
  }
  return absl::OkStatus();
}

void ProcessEngineGroup::OnProgress(int32_t rank, const LoadProgress& progress,
                                    LoadProgressLog& log) {
  if (log.ShouldLog(progress.done_bytes, progress.total_bytes, absl::Now())) {
    SPDLOG_INFO("event=load rank={} done={} total={}", rank, progress.done_bytes,
                progress.total_bytes);
  }
  absl::MutexLock lock(&mutex_);
  rank_processes_[static_cast<size_t>(rank)].weights_loaded_ratio =
      LoadedRatio(progress.done_bytes, progress.total_bytes);
}

absl::Status ProcessEngineGroup::OnInfo(int32_t rank, const EngineInfo& info) {
  MOED_RETURN_IF_ERROR(Annotate(absl::StrCat("rank ", rank), CheckInfo(ConfigOfRank(rank), info)));
  SPDLOG_INFO(
      "event=engine_ready rank={} device={} instruction_set={} dtype={} threads={} "
      "weight_bytes={} kv_bytes={} blocks={}",
      rank, info.device, info.instruction_set, info.dtype, info.num_threads, info.weight_bytes,
      info.kv_bytes, info.num_blocks);
  absl::MutexLock lock(&mutex_);
  rank_processes_[static_cast<size_t>(rank)].weights_loaded_ratio = 1;
  return absl::OkStatus();
}

absl::StatusOr<std::vector<StepResult>> ProcessEngineGroup::Execute(std::vector<StepPlan> plans) {
  MOED_CHECK(plans.size() == static_cast<size_t>(num_ranks()));
  absl::StatusOr<std::vector<StepResult>> results = RunStep(plans);
  if (results.ok()) return results;
  absl::MutexLock lock(&mutex_);
  state_ = State::kLost;
  if (cancelled_) return Cancelled();
  return Annotate(absl::StrCat("executing step ", plans.front().step_id), results.status());
}

absl::StatusOr<std::vector<StepResult>> ProcessEngineGroup::RunStep(
    const std::vector<StepPlan>& plans) {
  MOED_RETURN_IF_ERROR(EnterState(State::kInStep));
  for (int32_t rank = 0; rank < num_ranks(); ++rank) {
    MOED_RETURN_IF_ERROR(clients().SendPlan(rank, plans[static_cast<size_t>(rank)]));
  }
  MOED_ASSIGN_OR_RETURN(std::vector<StepResult> results, AwaitResults(plans));
  MOED_RETURN_IF_ERROR(EnterState(State::kIdle));
  return results;
}

absl::StatusOr<std::vector<StepResult>> ProcessEngineGroup::AwaitResults(
    const std::vector<StepPlan>& plans) {
  const Deadline deadline(options_.step_timeout);
  std::vector<std::optional<StepResult>> results(plans.size());
  for (size_t num_left = plans.size(); num_left > 0; --num_left) {
    std::optional<EngineEvent> event = NextEvent(deadline.left());
    if (!event.has_value()) {
      return absl::DeadlineExceededError(absl::StrCat("ranks ", MissingRanks(results),
                                                      " did not answer within ",
                                                      absl::FormatDuration(options_.step_timeout)));
    }
    if (const auto* status = std::get_if<absl::Status>(&event->what)) {
      return FindCause({event->rank, *status});
    }
    const size_t rank = static_cast<size_t>(event->rank);
    auto* result = std::get_if<StepResult>(&event->what);
    if (result == nullptr || results[rank].has_value()) {
      return absl::InternalError(absl::StrCat("rank ", rank, " sent what it was not asked for"));
    }
    MOED_RETURN_IF_ERROR(Annotate(absl::StrCat("rank ", rank), CheckResult(plans[rank], *result)));
    results[rank] = std::move(*result);
  }
  return TakeAll(std::move(results));
}

void ProcessEngineGroup::StopEngines(absl::Duration patience) {
  {
    absl::MutexLock lock(&mutex_);
    state_ = State::kStopped;  // the ends that follow are no deaths
  }
  if (processes_ != nullptr && patience > absl::ZeroDuration()) processes_->Terminate(patience);
  processes_.reset();
  std::unique_ptr<EngineClients> clients;  // declared before the lock, so destroyed after it
  absl::MutexLock lock(&mutex_);
  clients = std::move(clients_);
  first_death_.reset();
  for (RankProcess& rank : rank_processes_) rank.up = false;
}

/// Moves on to `state` unless the group was cancelled or a rank has died since the last move.
absl::Status ProcessEngineGroup::EnterState(State state) {
  absl::MutexLock lock(&mutex_);
  if (cancelled_) return Cancelled();
  if (first_death_.has_value()) return first_death_->status;
  if (state_ == State::kStopped && state != State::kStarting) {
    return absl::FailedPreconditionError("the engines were not started");
  }
  if (state_ == State::kLost) {
    return absl::FailedPreconditionError("the engines are lost; restart them first");
  }
  state_ = state;
  return absl::OkStatus();
}

void ProcessEngineGroup::OnEnd(int32_t rank, const ProcessEnd& end) {
  const std::string message = absl::StrCat("rank ", rank, " ", Describe(end));
  bool between_steps = false;
  {
    absl::MutexLock lock(&mutex_);
    rank_processes_[static_cast<size_t>(rank)].up = false;
    if (state_ == State::kStopped || cancelled_) return;  // engines end when they are told to
    between_steps = state_ == State::kIdle;
    if (between_steps) state_ = State::kLost;
    if (!first_death_.has_value()) first_death_ = {rank, absl::UnavailableError(message)};
  }
  SPDLOG_ERROR("event=engine_died error=\"{}\"", message);
  if (between_steps && on_death_) on_death_();
}

void ProcessEngineGroup::Cancel() {
  absl::MutexLock lock(&mutex_);
  cancelled_ = true;
  if (clients_ != nullptr) clients_->Cancel();
}

std::vector<RankProcess> ProcessEngineGroup::rank_processes() const {
  absl::MutexLock lock(&mutex_);
  return rank_processes_;
}

/// Only the calling thread replaces the clients, so the reference stays good on it.
EngineClients& ProcessEngineGroup::clients() const {
  absl::MutexLock lock(&mutex_);
  return *clients_;
}

/// The next event. A rank whose process ended without an event gets one here.
std::optional<EngineEvent> ProcessEngineGroup::NextEvent(absl::Duration timeout) {
  const Deadline deadline(timeout);
  while (true) {
    const absl::Duration left = deadline.left();
    std::optional<EngineEvent> event = clients().Next(std::min(left, kLookInterval));
    if (event.has_value()) return event;
    if (const std::optional<RankFailure> death = first_death(); death.has_value()) {
      return EngineEvent{death->rank, death->status};
    }
    if (left == absl::ZeroDuration()) return std::nullopt;
  }
}

/// The failure that explains `failure`: another rank's own error or a process that ended; itself
/// when nothing better turns up soon.
absl::Status ProcessEngineGroup::FindCause(RankFailure failure) {
  const Deadline deadline(kCauseTimeout);
  RankFailure cause = failure;
  while (MayBeConsequence(cause.status)) {
    if (cancelled()) return Cancelled();
    if (const std::optional<RankFailure> death = first_death(); death.has_value()) {
      return death->status;
    }
    if (deadline.left() == absl::ZeroDuration()) {
      cause = failure;
      break;
    }
    const std::optional<EngineEvent> event = clients().Next(absl::Milliseconds(5));
    if (!event.has_value()) continue;
    if (const auto* status = std::get_if<absl::Status>(&event->what))
      cause = {event->rank, *status};
  }
  return Annotate(absl::StrCat("rank ", cause.rank), cause.status);
}

std::optional<ProcessEngineGroup::RankFailure> ProcessEngineGroup::first_death() const {
  absl::MutexLock lock(&mutex_);
  return first_death_;
}

bool ProcessEngineGroup::cancelled() const {
  absl::MutexLock lock(&mutex_);
  return cancelled_;
}

}  // namespace moed
