#include "server/request/active_request.h"

#include <utility>

namespace moed {
namespace {

std::string_view ResultName(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kCancelled:
      return "cancelled";
    case absl::StatusCode::kDeadlineExceeded:
      return "deadline";
    default:
      return "error";
  }
}

}  // namespace

ActiveRequest::ActiveRequest(Request request, std::shared_ptr<RequestSink> sink,
                             const Tokenizer& tokenizer, uint64_t arrival_number)
    : request_(std::move(request)),
      sink_(std::move(sink)),
      arrival_number_(arrival_number),
      num_live_sequences_(request_.num_sequences) {
  sequences_.reserve(request_.num_sequences);
  for (int32_t index = 0; index < request_.num_sequences; ++index) {
    sequences_.push_back({.output = SequenceOutput(tokenizer, request_, index)});
  }
}

ActiveRequest::TokenEffect ActiveRequest::OnToken(int32_t index, SampledToken token,
                                                  const std::optional<SequenceEnd>& end,
                                                  absl::Time now) {
  SequenceProgress& sequence = sequences_[index];
  TokenEffect effect;
  if (sequence.output.num_generated() > 0) effect.since_last_token = now - sequence.last_token;
  sequence.last_token = now;
  if (!has_token()) first_token_ = now;
  SequenceOutput::Events events = sequence.output.Append(std::move(token), end);
  Send(std::move(events.delta));
  if (!events.finished) return effect;
  effect.was_stopped_by_text = !end;
  has_length_finish_ |= events.finished->reason == FinishReason::kLength;
  --num_live_sequences_;
  Send(*std::move(events.finished));
  return effect;
}

void ActiveRequest::Send(RequestEvent event) {
  if (!is_sink_full_) is_sink_full_ = !sink_->OnEvent(std::move(event));
}

RequestOutcome ActiveRequest::Complete(const RequestProgress& progress, const StepTotals& totals,
                                       absl::Time now) {
  const RequestOutcome outcome = MakeOutcome(has_length_finish_ ? "length" : "stop", progress, now);
  Send(UsageEvent{.num_prompt_tokens = outcome.num_prompt_tokens,
                  .num_cached_tokens = progress.num_cached_tokens,
                  .num_generated_tokens = outcome.num_generated_tokens,
                  .queue_time = outcome.queue_time,
                  .time_to_first_token = outcome.time_to_first_token,
                  .total_time = outcome.total_time,
                  .num_preemptions = progress.num_preemptions,
                  .timing = MakeTiming(outcome, totals)});
  return outcome;
}

std::shared_ptr<const RequestTiming> ActiveRequest::MakeTiming(const RequestOutcome& outcome,
                                                               const StepTotals& totals) const {
  if (!request_.output.timing) return nullptr;
  return std::make_shared<RequestTiming>(
      RequestTiming{.queue_time = outcome.queue_time,
                    .prefill_time = outcome.prefill_time,
                    .decode_time = outcome.decode_time,
                    .prefill_steps = at_first_token_ - before_first_step_,
                    .decode_steps = totals - at_first_token_});
}

RequestOutcome ActiveRequest::Fail(const absl::Status& status, const RequestProgress& progress,
                                   absl::Time now) {
  sink_->OnError(status);
  return MakeOutcome(ResultName(status), progress, now);
}

RequestOutcome ActiveRequest::MakeOutcome(std::string_view result, const RequestProgress& progress,
                                          absl::Time now) const {
  RequestOutcome outcome{.result = result};
  outcome.num_prompt_tokens = static_cast<int32_t>(request_.prompt_token_ids.size());
  outcome.num_generated_tokens = num_generated();
  outcome.total_time = now - request_.arrival;
  if (progress.started()) outcome.queue_time = progress.first_scheduled - request_.arrival;
  if (has_token()) {
    outcome.time_to_first_token = first_token_ - request_.arrival;
    outcome.prefill_time = first_token_ - progress.first_scheduled;
    outcome.decode_time = now - first_token_;
  }
  return outcome;
}

int32_t ActiveRequest::num_generated() const {
  int32_t sum = 0;
  for (const SequenceProgress& sequence : sequences_) sum += sequence.output.num_generated();
  return sum;
}

}  // namespace moed
