#include "server/rpc/event_conversion.h"

#include "absl/time/time.h"

namespace moed {
namespace {

void FillLogprobs(const GeneratedToken& token, const Tokenizer& tokenizer, v1::TokenLogprobs& out) {
  out.set_token_id(token.token_id);
  out.set_logprob(token.logprob);
  out.set_token(tokenizer.TokenBytes(token.token_id));
  for (const TokenLogprob& top : token.top_logprobs) {
    auto* entry = out.add_top();
    entry->set_token_id(top.token_id);
    entry->set_logprob(top.logprob);
    entry->set_token(tokenizer.TokenBytes(top.token_id));
  }
}

void FillTiming(const RequestTiming& timing, v1::Timing& out) {
  out.set_queue_seconds(absl::ToDoubleSeconds(timing.queue_time));
  out.set_prefill_seconds(absl::ToDoubleSeconds(timing.prefill_time));
  out.set_decode_seconds(absl::ToDoubleSeconds(timing.decode_time));
  FillStepSeconds(timing.prefill_steps, *out.mutable_prefill());
  FillStepSeconds(timing.decode_steps, *out.mutable_decode());
}

// One overload for each kind of event.
struct MessageFiller {
  const EventFormat& format;
  const Tokenizer& tokenizer;
  v1::GenerateResponse& message;

  void operator()(const DeltaEvent& event) const {
    auto* delta = message.mutable_delta();
    delta->set_index(event.index);
    delta->set_text(event.text);
    delta->set_num_tokens(static_cast<int32_t>(event.tokens.size()));
    for (const GeneratedToken& token : event.tokens) {
      if (format.return_token_ids) delta->add_token_ids(token.token_id);
      if (format.return_logprobs) FillLogprobs(token, tokenizer, *delta->add_logprobs());
    }
  }

  void operator()(const FinishedEvent& event) const {
    auto* finished = message.mutable_finished();
    finished->set_index(event.index);
    finished->set_reason(event.reason == FinishReason::kStop ? v1::FINISH_REASON_STOP
                                                             : v1::FINISH_REASON_LENGTH);
    if (const auto* id = std::get_if<int32_t>(&event.matched)) finished->set_stop_token_id(*id);
    if (const auto* stop = std::get_if<std::string>(&event.matched)) {
      finished->set_stop_string(*stop);
    }
    finished->set_num_generated_tokens(event.num_generated_tokens);
  }

  void operator()(const UsageEvent& event) const {
    auto* usage = message.mutable_done()->mutable_usage();
    usage->set_num_prompt_tokens(event.num_prompt_tokens);
    usage->set_num_cached_tokens(event.num_cached_tokens);
    usage->set_num_generated_tokens(event.num_generated_tokens);
    usage->set_queue_seconds(absl::ToDoubleSeconds(event.queue_time));
    usage->set_time_to_first_token_seconds(absl::ToDoubleSeconds(event.time_to_first_token));
    usage->set_total_seconds(absl::ToDoubleSeconds(event.total_time));
    usage->set_num_preemptions(event.num_preemptions);
    if (event.timing != nullptr)
      FillTiming(*event.timing, *message.mutable_done()->mutable_timing());
  }
};

}  // namespace

void FillStepSeconds(const StepTotals& totals, v1::StepSeconds& out) {
  out.set_num_steps(totals.num_steps);
  out.set_total(totals.step_seconds);
  out.set_plan(totals.plan_seconds);
  out.set_attention(totals.times.attention);
  out.set_route(totals.times.route);
  out.set_dispatch(totals.times.dispatch);
  out.set_dispatch_wait(totals.times.dispatch_wait);
  out.set_experts(totals.times.experts);
  out.set_combine(totals.times.combine);
  out.set_combine_wait(totals.times.combine_wait);
  out.set_head(totals.times.head);
  out.set_sampling(totals.times.sampling);
}

v1::GenerateResponse AcceptedMessage(const Request& request) {
  v1::GenerateResponse message;
  auto* accepted = message.mutable_accepted();
  accepted->set_request_id(request.id);
  accepted->set_num_prompt_tokens(static_cast<int32_t>(request.prompt_token_ids.size()));
  accepted->set_seed(request.sampling.seed);
  return message;
}

v1::GenerateResponse ToMessage(const RequestEvent& event, const EventFormat& format,
                               const Tokenizer& tokenizer) {
  v1::GenerateResponse message;
  std::visit(MessageFiller{format, tokenizer, message}, event);
  return message;
}

}  // namespace moed
