#include "client/load/stream/load_run.h"

#include <sys/prctl.h>
#include <sys/resource.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "client/load/stats/random.h"

namespace moed::load {
namespace {

constexpr double kNs = 1e9;
// A slot whose request failed waits, lest a server that refuses be hammered without a pause.
constexpr int64_t kPauseAfterFailureNs = 100'000'000;

int64_t ToNs(double seconds) { return std::llround(std::min(seconds, 1e9) * kNs); }
double ToSeconds(int64_t ns) { return static_cast<double>(ns) / kNs; }

double ProcessCpuSeconds() {
  rusage usage = {};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

}  // namespace

LoadRun::LoadRun(const Params& params) : plan_(params.plan), prompts_(params.prompts) {
  const auto on_end = [this](std::unique_ptr<Session> session, RequestOutcome outcome) {
    OnEnd(std::move(session), outcome);
  };
  for (auto& connections : params.connections) {
    workers_.push_back(
        std::make_unique<StreamWorker>(StreamWorker::Params{.connections = connections,
                                                            .options = params.options,
                                                            .clock = clock_,
                                                            .live = params.live,
                                                            .recording = plan_.recording,
                                                            .on_end = on_end}));
  }
}

LoadRun::~LoadRun() = default;

RunResult LoadRun::Run() {
  ::prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);  // wake up on time
  const double cpu_before = ProcessCpuSeconds();
  clock_.Restart();
  Pace();
  Drain();
  RunResult result = Collect();
  result.process_cpu_seconds = ProcessCpuSeconds() - cpu_before;
  return result;
}

void LoadRun::Stop() {
  absl::MutexLock lock(&mutex_);
  is_stopped_ = true;
  EndSending(clock_.Now());
}

void LoadRun::Pace() {
  {
    absl::MutexLock lock(&mutex_);
    TakeArrival();
  }
  for (;;) {
    std::vector<StreamStart> due = WaitForDue();
    if (due.empty()) return;
    for (StreamStart& start : due) Send(std::move(start));
  }
}

std::vector<StreamStart> LoadRun::WaitForDue() {
  absl::MutexLock lock(&mutex_);
  for (;;) {
    const int64_t now = clock_.Now();
    if (plan_.duration_s > 0 && now >= ToNs(plan_.duration_s)) EndSending(now);
    std::vector<StreamStart> due = TakeDue(now);
    if (!due.empty() || SendsNothingMore()) return due;
    const std::optional<int64_t> wake_up = NextWakeUp();
    if (wake_up.has_value()) {
      changed_.WaitWithTimeout(&mutex_, absl::Nanoseconds(std::max<int64_t>(*wake_up - now, 0)));
    } else {
      changed_.Wait(&mutex_);
    }
  }
}

std::vector<StreamStart> LoadRun::TakeDue(int64_t now) {
  std::vector<StreamStart> due;
  const auto admit = [&](Due next) {
    const int64_t intended_ns = next.at_ns;
    auto start = Admit(std::move(next), /*eligible_ns=*/intended_ns, now);
    if (start.has_value()) due.push_back(*std::move(start));
  };
  while (sending_end_ns_ == 0 && next_arrival_ns_.has_value() && *next_arrival_ns_ <= now) {
    if (plan_.slots.has_value()) ++num_slots_;
    admit({*next_arrival_ns_, NewSession()});
    TakeArrival();
  }
  while (!thinking_.empty() && thinking_.top().at_ns <= now) {
    // The queue gives out constant references only; the order does not depend on the session.
    Due next = std::move(const_cast<Due&>(thinking_.top()));
    thinking_.pop();
    admit(std::move(next));
  }
  return due;
}

void LoadRun::TakeArrival() {
  const std::optional<double> seconds = plan_.arrivals->Next();
  next_arrival_ns_ = seconds.has_value() ? std::optional<int64_t>(ToNs(*seconds)) : std::nullopt;
}

std::optional<int64_t> LoadRun::NextWakeUp() const {
  std::optional<int64_t> wake_up = next_arrival_ns_;
  const auto consider = [&wake_up](int64_t at) { wake_up = std::min(wake_up.value_or(at), at); };
  if (!thinking_.empty()) consider(thinking_.top().at_ns);
  if (plan_.duration_s > 0) consider(ToNs(plan_.duration_s));
  return wake_up;
}

bool LoadRun::SendsNothingMore() const {
  if (sending_end_ns_ > 0) return true;
  return !next_arrival_ns_.has_value() && thinking_.empty() && backlog_.empty() && num_active_ == 0;
}

void LoadRun::EndSending(int64_t now) {
  if (sending_end_ns_ > 0) return;
  sending_end_ns_ = std::max<int64_t>(now, 1);
  num_unsent_ = std::ssize(backlog_);
  next_arrival_ns_.reset();
  thinking_ = {};
  backlog_.clear();
  changed_.SignalAll();
}

// Cancels again and again: a stream may be about to start.
void LoadRun::Drain() {
  constexpr absl::Duration kPoll = absl::Milliseconds(100);
  const absl::Time deadline = absl::Now() + absl::Seconds(plan_.drain_timeout_s);
  for (;;) {
    bool must_cancel = false;
    {
      absl::MutexLock lock(&mutex_);
      EndSending(clock_.Now());
      if (num_active_ == 0) return;
      must_cancel = is_stopped_ || absl::Now() >= deadline;
    }
    if (must_cancel) {
      for (const auto& worker : workers_) worker->CancelAll();
    }
    absl::MutexLock lock(&mutex_);
    if (num_active_ > 0) changed_.WaitWithTimeout(&mutex_, kPoll);
  }
}

void LoadRun::OnEnd(std::unique_ptr<Session> session, RequestOutcome outcome) {
  std::optional<StreamStart> next;
  {
    absl::MutexLock lock(&mutex_);
    --num_active_;
    next = AfterEnd(std::move(session), outcome, clock_.Now());
    changed_.SignalAll();
  }
  // Without a next one the run may be over by now, and this object gone.
  if (next.has_value()) Send(*std::move(next));
}

std::optional<StreamStart> LoadRun::AfterEnd(std::unique_ptr<Session> session,
                                             RequestOutcome outcome, int64_t now) {
  if (sending_end_ns_ > 0) return std::nullopt;
  const bool has_failed = outcome == RequestOutcome::kFailed;
  const bool goes_on = !has_failed && session->turn < session->num_turns;
  if (!goes_on && plan_.slots.has_value()) {
    if (!HasFreeSlot(now)) {
      --num_slots_;
      return std::nullopt;
    }
    const size_t worker = session->worker;
    session = NewSession();
    session->worker = worker;
  }
  if (goes_on || plan_.slots.has_value()) {
    Random random(plan_.seed ^ 0x7468696e, static_cast<uint64_t>(num_requests_));
    const int64_t think_ns = has_failed ? kPauseAfterFailureNs : ToNs(plan_.think_s.Sample(random));
    if (think_ns == 0) return Admit({now, std::move(session)}, now, now);
    thinking_.push({now + think_ns, std::move(session)});
  }
  if (backlog_.empty()) return std::nullopt;
  Due first = std::move(backlog_.front());
  backlog_.pop_front();
  return Admit(std::move(first), /*eligible_ns=*/now, now);
}

std::optional<StreamStart> LoadRun::Admit(Due due, int64_t eligible_ns, int64_t now) {
  const bool is_limited = plan_.max_requests > 0;
  if (is_limited && num_requests_ + std::ssize(backlog_) >= plan_.max_requests) return std::nullopt;
  if (!plan_.slots.has_value() && plan_.max_concurrency > 0 &&
      num_active_ >= plan_.max_concurrency) {
    backlog_.push_back(std::move(due));
    return std::nullopt;
  }
  ++num_active_;
  StreamStart start{.session = std::move(due.session),
                    .prompt = {},
                    .index = num_requests_++,
                    .intended_ns = due.at_ns,
                    .eligible_ns = eligible_ns};
  if (is_limited && num_requests_ >= plan_.max_requests) EndSending(now);
  return start;
}

std::unique_ptr<Session> LoadRun::NewSession() {
  auto session = std::make_unique<Session>();
  session->number = num_sessions_++;
  session->worker = static_cast<size_t>(session->number) % workers_.size();
  Random random(plan_.seed ^ 0x7475726e, static_cast<uint64_t>(session->number));
  session->num_turns = std::max<int64_t>(1, plan_.turns.SampleInteger(random));
  return session;
}

bool LoadRun::HasFreeSlot(int64_t now) const {
  return num_slots_ <= std::llround(plan_.slots->LevelAt(ToSeconds(now)));
}

void LoadRun::Send(StreamStart start) {
  FillPrompt(start);
  StreamWorker& worker = *workers_[start.session->worker];
  worker.Start(std::move(start));
}

void LoadRun::FillPrompt(StreamStart& start) {
  Session& session = *start.session;
  start.prompt = prompts_.Make({.index = start.index,
                                .session = session.number,
                                .turn = session.turn,
                                .seconds = ToSeconds(start.intended_ns)});
  FitIntoContext(session, start.prompt);
  if (session.history.empty()) return;
  session.history.insert(session.history.end(), start.prompt.token_ids.begin(),
                         start.prompt.token_ids.end());
  start.prompt.token_ids = std::move(session.history);
  session.history.clear();
}

// A conversation that outgrows the model's context begins anew.
void LoadRun::FitIntoContext(Session& session, Prompt& prompt) {
  if (plan_.max_model_len <= 0) return;
  const auto needed = [&] {
    return std::ssize(session.history) + std::ssize(prompt.token_ids) + prompt.max_tokens;
  };
  if (needed() > plan_.max_model_len) session.history.clear();
  if (needed() <= plan_.max_model_len) return;
  ++num_cut_prompts_;
  const int64_t num_ids = std::ssize(prompt.token_ids);
  const int64_t most_output = plan_.max_model_len - std::min<int64_t>(num_ids, 1);
  prompt.max_tokens = std::max<int64_t>(1, std::min(prompt.max_tokens, most_output));
  if (needed() <= plan_.max_model_len || num_ids == 0) return;
  prompt.token_ids.resize(
      static_cast<size_t>(std::max<int64_t>(1, plan_.max_model_len - prompt.max_tokens)));
}

RunResult LoadRun::Collect() {
  RunResult result(plan_.recording);
  result.seconds = ToSeconds(clock_.Now());
  for (const auto& worker : workers_) {
    worker->Join();
    result.recording.Merge(worker->recording());
    result.worker_cpu_share =
        std::max(result.worker_cpu_share, worker->cpu_seconds() / std::max(result.seconds, 1e-9));
  }
  result.num_cut_prompts = num_cut_prompts_;
  result.is_closed_loop = plan_.slots.has_value();
  absl::MutexLock lock(&mutex_);
  result.sending_seconds = ToSeconds(sending_end_ns_);
  result.num_unsent = num_unsent_;
  result.is_interrupted = is_stopped_;
  return result;
}

}  // namespace moed::load
