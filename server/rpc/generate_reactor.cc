#include "server/rpc/generate_reactor.h"

#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"
#include "config/logging.h"

namespace moed {
namespace {

constexpr RpcMethod kMethod = {"moed.v1.InferenceService", "Generate"};

// Of an error's message in the log: it may repeat what the client sent.
constexpr size_t kMaxLoggedErrorBytes = 1024;

// Whether a call that ends now ends by its deadline. A client's clock runs out a little earlier
// than the server's: on the wire a timeout is rounded up by at most 1 %.
bool IsLate(absl::Time arrival, absl::Time deadline) {
  if (deadline == absl::InfiniteFuture()) return false;
  return absl::Now() + (deadline - arrival) * 0.02 + absl::Milliseconds(5) >= deadline;
}

// The fields of a log line by which it is found from the caller's trace.
std::string TraceFields(const std::optional<TraceContext>& trace) {
  if (!trace.has_value()) return "";
  return absl::StrFormat(" trace_id=%s parent_id=%s sampled=%d", trace->trace_id, trace->parent_id,
                         trace->sampled);
}

}  // namespace

std::shared_ptr<GenerateReactor> GenerateReactor::Create(Params params) {
  std::shared_ptr<GenerateReactor> reactor(new GenerateReactor(std::move(params)));
  reactor->self_ = reactor;
  return reactor;
}

GenerateReactor::GenerateReactor(Params params)
    : params_(std::move(params)), pending_(params_.max_pending_bytes, &params_.num_pending_bytes) {
  ++params_.num_calls;
  params_.context.AddInitialMetadata("x-request-id", params_.request_id);
}

void GenerateReactor::Submit(Request request, const EventFormat& format) {
  format_ = format;
  v1::GenerateResponse accepted = AcceptedMessage(request);
  const auto num_prompt_tokens = static_cast<int64_t>(request.prompt_token_ids.size());
  if (const auto cancelled = Failure(); cancelled.has_value()) return Refuse(*cancelled);
  const absl::Status status = params_.loop.Submit(std::move(request), shared_from_this());
  if (!status.ok()) return Refuse(status);
  ticket_.TakeTokens(num_prompt_tokens);
  // A cancellation that came between the two may have reached the step loop before the request.
  const auto cancelled = Failure();
  if (cancelled.has_value()) params_.loop.Cancel(params_.request_id, *cancelled);
  {
    absl::MutexLock lock(&mutex_);
    if (!cancelled.has_value()) accepted_ = std::move(accepted);
    open_ = true;
  }
  Advance();
}

std::optional<absl::Status> GenerateReactor::Failure() {
  absl::MutexLock lock(&mutex_);
  return end_.has_value() && !end_->ok() ? end_ : std::nullopt;
}

void GenerateReactor::Refuse(const absl::Status& status) {
  {
    absl::MutexLock lock(&mutex_);
    end_ = status;
    open_ = true;
  }
  Advance();
}

bool GenerateReactor::OnEvent(RequestEvent event) {
  bool taken = false;
  bool is_last = false;
  if (const auto* delta = std::get_if<DeltaEvent>(&event); delta != nullptr) {
    ticket_.TakeTokens(static_cast<int64_t>(delta->tokens.size()));
  }
  {
    absl::MutexLock lock(&mutex_);
    if (end_.has_value()) return true;
    const auto* usage = std::get_if<UsageEvent>(&event);
    if (usage != nullptr) usage_ = *usage;
    is_last = usage != nullptr;
    taken = pending_.Push(std::move(event));
    if (taken && is_last) end_ = absl::OkStatus();
  }
  if (!taken) {
    CutOff(absl::ResourceExhaustedError("the client reads too slowly and was cut off"));
  } else if (is_last) {
    LimitUnread();
  }
  Advance();
  return taken;
}

void GenerateReactor::OnError(const absl::Status& status) {
  {
    absl::MutexLock lock(&mutex_);
    if (!end_.has_value()) end_ = status;
  }
  LimitUnread();
  Advance();
}

void GenerateReactor::OnWriteDone(bool ok) {
  {
    absl::MutexLock lock(&mutex_);
    writing_ = false;
  }
  if (!ok) return AbandonAndCancel(absl::CancelledError("the client is gone"));
  Advance();
}

void GenerateReactor::OnCancel() {
  AbandonAndCancel(IsLate(params_.arrival, params_.deadline)
                       ? absl::DeadlineExceededError("the client's deadline has passed")
                       : absl::CancelledError("the client cancelled or is gone"));
}

void GenerateReactor::OnDone() {
  unread_alarm_.Cancel();
  {
    absl::MutexLock lock(&mutex_);
    pending_.Clear();
  }
  --params_.num_calls;
  // The last reference must not die while it is a member of what it refers to.
  const std::shared_ptr<GenerateReactor> self = std::move(self_);
}

bool GenerateReactor::Abandon(const absl::Status& status) {
  pending_.Clear();
  accepted_.reset();
  if (end_.has_value()) return false;
  end_ = status;
  return true;
}

void GenerateReactor::AbandonAndCancel(const absl::Status& status) {
  bool running = false;
  {
    absl::MutexLock lock(&mutex_);
    running = Abandon(status);
  }
  if (running) params_.loop.Cancel(params_.request_id, status);
  Advance();
}

// The alarm's callback outlives the alarm, which is ours: it must let go of us when it has run.
void GenerateReactor::LimitUnread() {
  {
    absl::MutexLock lock(&mutex_);
    const bool is_unread = !open_ || writing_ || accepted_.has_value() || !pending_.empty();
    if (!is_unread || finishing_ || std::exchange(is_limited_, true)) return;
    setting_alarm_ = true;
  }
  auto on_alarm = [self = shared_from_this()](bool is_late) mutable {
    const std::shared_ptr<GenerateReactor> held = std::move(self);
    if (!is_late) return;  // cancelled
    held->CutOff(absl::ResourceExhaustedError(
        absl::StrFormat("the client left what was generated unread for %s and was cut off",
                        absl::FormatDuration(held->params_.unread_timeout))));
    held->Advance();
  };
  unread_alarm_.Set(absl::ToChronoTime(absl::Now() + params_.unread_timeout), std::move(on_alarm));
  absl::MutexLock lock(&mutex_);
  setting_alarm_ = false;
}

// A write is stuck in flow control, and Finish would be stuck behind it: the stream is reset
// instead.
void GenerateReactor::CutOff(const absl::Status& status) {
  {
    absl::MutexLock lock(&mutex_);
    if (finishing_) return;  // the context may be gone
    Abandon(status);
    end_ = status;
    cutting_off_ = true;
  }
  params_.context.TryCancel();
  absl::MutexLock lock(&mutex_);
  cutting_off_ = false;
}

GenerateReactor::Action GenerateReactor::TakeAction() {
  if (!open_ || writing_ || finishing_) return std::monostate();
  if (cutting_off_ || setting_alarm_) return std::monostate();
  if (accepted_.has_value()) {
    writing_ = true;
    return *std::exchange(accepted_, std::nullopt);
  }
  if (std::optional<RequestEvent> event = pending_.Pop(); event.has_value()) {
    writing_ = true;
    return *std::move(event);
  }
  if (!end_.has_value()) return std::monostate();
  finishing_ = true;
  return *end_;
}

void GenerateReactor::Advance() {
  Action action;
  {
    absl::MutexLock lock(&mutex_);
    action = TakeAction();
  }
  if (auto* message = std::get_if<v1::GenerateResponse>(&action)) Write(std::move(*message));
  if (auto* event = std::get_if<RequestEvent>(&action)) {
    Write(ToMessage(*event, format_, params_.tokenizer));
  }
  if (auto* status = std::get_if<absl::Status>(&action)) FinishWith(*status);
}

void GenerateReactor::Write(v1::GenerateResponse message) {
  message_ = std::move(message);
  StartWrite(&message_);
}

void GenerateReactor::FinishWith(const absl::Status& status) {
  Log(status);
  params_.admission.CountHandled(kMethod, status.code(), params_.arrival);
  Finish(ToGrpcStatus(status, params_.context));
}

void GenerateReactor::Log(const absl::Status& status) {
  UsageEvent usage;
  {
    absl::MutexLock lock(&mutex_);
    usage = usage_.value_or(UsageEvent{});
  }
  SPDLOG_INFO(
      "event=request_done request_id={} tenant={} client_request_id=\"{}\" code={} "
      "prompt_tokens={} "
      "cached_tokens={} generated_tokens={} queue_ms={:.2f} ttft_ms={:.2f} total_ms={:.2f}{}{}",
      params_.request_id, params_.tenant, absl::CEscape(params_.client_request_id),
      absl::StatusCodeToString(status.code()), usage.num_prompt_tokens, usage.num_cached_tokens,
      usage.num_generated_tokens, absl::ToDoubleMilliseconds(usage.queue_time),
      absl::ToDoubleMilliseconds(usage.time_to_first_token),
      absl::ToDoubleMilliseconds(absl::Now() - params_.arrival), TraceFields(params_.trace),
      status.ok()
          ? ""
          : " error=\"" + absl::CEscape(status.message().substr(0, kMaxLoggedErrorBytes)) + "\"");
}

}  // namespace moed
