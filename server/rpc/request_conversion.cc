#include "server/rpc/request_conversion.h"

#include <algorithm>
#include <utility>

namespace moed {
namespace {

void SetSamplingDefaults(const ServedModel& model, SamplingParams& params) {
  const GenerationDefaults& defaults = model.defaults;
  params.temperature = static_cast<float>(defaults.temperature.value_or(1));
  params.top_k =
      static_cast<int32_t>(std::min<int64_t>(defaults.top_k.value_or(0), model.vocab_size));
  params.top_p = static_cast<float>(defaults.top_p.value_or(1));
  params.min_p = static_cast<float>(defaults.min_p.value_or(0));
  params.repetition_penalty = static_cast<float>(defaults.repetition_penalty.value_or(1));
}

SamplingParams ToSamplingParams(const v1::GenerateRequest& message, const ServedModel& model,
                                uint64_t random_seed) {
  const v1::SamplingOptions& options = message.sampling();
  SamplingParams params;
  SetSamplingDefaults(model, params);
  if (options.has_temperature()) params.temperature = options.temperature();
  if (options.has_top_k()) params.top_k = options.top_k();
  if (options.has_top_p()) params.top_p = options.top_p();
  if (options.has_min_p()) params.min_p = options.min_p();
  if (options.has_repetition_penalty()) params.repetition_penalty = options.repetition_penalty();
  params.presence_penalty = options.presence_penalty();
  params.frequency_penalty = options.frequency_penalty();
  params.logit_bias.assign(options.logit_bias().begin(), options.logit_bias().end());
  std::sort(params.logit_bias.begin(), params.logit_bias.end());  // a map has no order of its own
  params.allowed_token_ids.assign(options.allowed_token_ids().begin(),
                                  options.allowed_token_ids().end());
  params.seed = options.has_seed() ? options.seed() : random_seed;
  params.num_top_logprobs = message.response().has_logprobs() ? message.response().logprobs() : -1;
  return params;
}

StoppingParams ToStoppingParams(const v1::StoppingOptions& options, int32_t room) {
  StoppingParams params;
  params.max_tokens = options.has_max_tokens() ? std::min(options.max_tokens(), room) : room;
  params.min_tokens = std::min(options.min_tokens(), params.max_tokens);
  params.stop.assign(options.stop().begin(), options.stop().end());
  params.stop_token_ids.assign(options.stop_token_ids().begin(), options.stop_token_ids().end());
  params.ignore_eos = options.ignore_eos();
  params.include_stop_string = options.include_stop_string();
  return params;
}

OutputOptions ToOutputOptions(const v1::ResponseOptions& options) {
  return {.echo = options.echo(),
          .return_token_ids = options.return_token_ids(),
          .skip_text = options.skip_text(),
          .skip_special_tokens =
              options.has_skip_special_tokens() ? options.skip_special_tokens() : true,
          .timing = options.timing()};
}

}  // namespace

Request ToRequest(const v1::GenerateRequest& message, const ServedModel& model,
                  RequestContext context) {
  const int32_t room = model.max_model_len - static_cast<int32_t>(context.prompt_token_ids.size());
  Request request;
  request.id = std::move(context.id);
  request.prompt_token_ids = std::move(context.prompt_token_ids);
  request.sampling = ToSamplingParams(message, model, context.random_seed);
  request.num_sequences = std::max(message.sampling().n(), 1);
  request.stopping = ToStoppingParams(message.stopping(), room);
  request.output = ToOutputOptions(message.response());
  request.priority = message.priority();
  request.cache_salt = message.cache_salt();
  request.bypass_prefix_cache = message.bypass_prefix_cache();
  request.arrival = context.arrival;
  request.deadline = context.deadline;
  return request;
}

}  // namespace moed
