#include "client/load/stream/generate_stream.h"

#include <chrono>
#include <utility>

#include "client/load/stats/random.h"
#include "client/rpc_error.h"

namespace moed::load {
namespace {

constexpr uint64_t kFnvBasis = 0xcbf29ce484222325;
constexpr uint64_t kFnvPrime = 0x100000001b3;

std::chrono::system_clock::time_point AfterSeconds(double seconds) {
  return std::chrono::system_clock::now() +
         std::chrono::duration_cast<std::chrono::system_clock::duration>(
             std::chrono::duration<double>(seconds));
}

}  // namespace

GenerateStream::GenerateStream(StreamWorker& worker, StreamStart start)
    : worker_(worker),
      options_(worker.params_.options),
      session_(std::move(start.session)),
      prompt_(std::move(start.prompt)) {
  record_.index = start.index;
  record_.intended_ns = start.intended_ns;
  record_.eligible_ns = start.eligible_ns;
  record_.prompt_id = prompt_.id;
  record_.turn = static_cast<int32_t>(session_->turn);
  record_.token_hash = kFnvBasis;
  Random random(options_.seed ^ 0x6661756c, static_cast<uint64_t>(start.index));
  cancels_ = options_.cancel_after_tokens > 0 && random.Uniform() < options_.cancel_fraction;
  record_.slow_reader =
      options_.slow_reader_s > 0 && random.Uniform() < options_.slow_reader_fraction;
}

void GenerateStream::Begin(const Connection& connection, v1::InferenceService::Stub& stub) {
  MakeRequest();
  connection.Authorize(context_);
  record_.sent_ns = worker_.params_.clock.Now();
  if (options_.deadline_s > 0) context_.set_deadline(AfterSeconds(options_.deadline_s));
  reader_ = stub.PrepareAsyncGenerate(&context_, request_, &worker_.queue_);
  reader_->StartCall(&started_);
}

void GenerateStream::MakeRequest() {
  request_ = options_.request;
  if (prompt_.token_ids.empty()) {
    request_.set_text(std::move(prompt_.text));
  } else {
    *request_.mutable_token_ids()->mutable_ids() = {prompt_.token_ids.begin(),
                                                    prompt_.token_ids.end()};
  }
  request_.mutable_stopping()->set_max_tokens(static_cast<int32_t>(prompt_.max_tokens));
}

void GenerateStream::Cancel() {
  is_unfinished_ = true;
  context_.TryCancel();
}

void GenerateStream::OnStarted(bool ok) {
  if (!ok) return reader_->Finish(&status_, &finished_);
  ReadNext();
}

void GenerateStream::ReadNext() {
  if (!record_.slow_reader) return reader_->Read(&event_, &read_);
  pause_.Set(&worker_.queue_, AfterSeconds(options_.slow_reader_s), &pause_over_);
}

void GenerateStream::OnPauseOver(bool) { reader_->Read(&event_, &read_); }

void GenerateStream::OnRead(bool ok) {
  if (!ok) return reader_->Finish(&status_, &finished_);
  Take(event_);
  ReadNext();
}

void GenerateStream::Take(const v1::GenerateResponse& event) {
  switch (event.event_case()) {
    case v1::GenerateResponse::kAccepted:
      record_.num_prompt_tokens = event.accepted().num_prompt_tokens();
      break;
    case v1::GenerateResponse::kDelta:
      if (event.delta().num_tokens() > 0) TakeDelta(event.delta());
      if (worker_.recording_.params().keep_details) detail_.text += event.delta().text();
      break;
    case v1::GenerateResponse::kDone: {
      const v1::Usage& usage = event.done().usage();
      record_.num_cached_tokens = usage.num_cached_tokens();
      record_.queue_s = static_cast<float>(usage.queue_seconds());
      record_.server_ttft_s = static_cast<float>(usage.time_to_first_token_seconds());
      break;
    }
    default:
      break;
  }
}

void GenerateStream::TakeDelta(const v1::Delta& delta) {
  const int64_t now = worker_.params_.clock.Now();
  LiveCounts& live = worker_.params_.live;
  worker_.recording_.OnTokens(record_, now, delta.num_tokens());
  if (record_.first_token_ns == 0) {
    record_.first_token_ns = now;
    live.num_first_tokens.fetch_add(1, std::memory_order_relaxed);
    live.ttft_sum_ns.fetch_add(now - record_.intended_ns, std::memory_order_relaxed);
  } else if (worker_.recording_.params().keep_details) {
    detail_.inter_token_s.push_back(static_cast<float>(now - record_.last_token_ns) * 1e-9f);
  }
  record_.last_token_ns = now;
  record_.num_output_tokens += delta.num_tokens();
  live.num_tokens.fetch_add(delta.num_tokens(), std::memory_order_relaxed);
  if (options_.keep_token_ids) {
    for (const int32_t id : delta.token_ids()) {
      record_.token_hash = (record_.token_hash ^ static_cast<uint32_t>(id)) * kFnvPrime;
      if (session_->num_turns > 1) session_->answer.push_back(id);
    }
  }
  if (cancels_ && !has_cancelled_ && record_.num_output_tokens >= options_.cancel_after_tokens) {
    has_cancelled_ = true;
    context_.TryCancel();
  }
}

RequestOutcome GenerateStream::Outcome() const {
  if (status_.ok()) return RequestOutcome::kCompleted;
  if (has_cancelled_) return RequestOutcome::kCancelled;
  if (is_unfinished_) return RequestOutcome::kUnfinished;
  const bool is_late = status_.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED;
  if (options_.deadline_s > 0 && is_late) return RequestOutcome::kDeadline;
  return RequestOutcome::kFailed;
}

void GenerateStream::OnFinished(bool) {
  record_.end_ns = worker_.params_.clock.Now();
  record_.outcome = Outcome();
  if (record_.outcome == RequestOutcome::kCompleted && record_.first_token_ns == 0) {
    record_.outcome = RequestOutcome::kFailed;  // a server that answers without a token
    status_ = grpc::Status(grpc::StatusCode::INTERNAL, "the stream ended without a token");
  }
  if (record_.outcome == RequestOutcome::kFailed) {
    record_.error = worker_.recording_.ErrorIndex(FormatRpcError(status_));
    worker_.params_.live.num_failed.fetch_add(1, std::memory_order_relaxed);
  }
  worker_.params_.live.num_ended.fetch_add(1, std::memory_order_relaxed);
  worker_.recording_.OnEnd(record_, std::move(detail_));
  GiveBackSession();
}

void GenerateStream::GiveBackSession() {
  if (session_->num_turns > 1) {
    session_->history = std::move(prompt_.token_ids);
    session_->history.insert(session_->history.end(), session_->answer.begin(),
                             session_->answer.end());
    session_->answer.clear();
  }
  ++session_->turn;
  StreamWorker& worker = worker_;
  const RequestOutcome outcome = record_.outcome;
  std::unique_ptr<Session> session = std::move(session_);
  worker.Remove(this);  // deletes this
  worker.params_.on_end(std::move(session), outcome);
}

}  // namespace moed::load
