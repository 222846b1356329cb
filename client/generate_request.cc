#include "client/generate_request.h"

#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "config/base/status_macros.h"

namespace moed {
namespace {

absl::Status AddLogitBias(const std::string& text, v1::SamplingOptions& sampling) {
  const std::vector<std::string> parts = absl::StrSplit(text, '=');
  int32_t token_id = 0;
  float bias = 0;
  if (parts.size() != 2 || !absl::SimpleAtoi(parts[0], &token_id) ||
      !absl::SimpleAtof(parts[1], &bias)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--logit-bias \"", text, "\": expected ID=BIAS, e.g. 42=-1.5"));
  }
  (*sampling.mutable_logit_bias())[token_id] = bias;
  return absl::OkStatus();
}

absl::Status SetSampling(const GenerateFlags& flags, v1::SamplingOptions& sampling) {
  if (flags.temperature) sampling.set_temperature(*flags.temperature);
  if (flags.top_k) sampling.set_top_k(*flags.top_k);
  if (flags.top_p) sampling.set_top_p(*flags.top_p);
  if (flags.min_p) sampling.set_min_p(*flags.min_p);
  if (flags.presence_penalty) sampling.set_presence_penalty(*flags.presence_penalty);
  if (flags.frequency_penalty) sampling.set_frequency_penalty(*flags.frequency_penalty);
  if (flags.repetition_penalty) sampling.set_repetition_penalty(*flags.repetition_penalty);
  if (flags.seed) sampling.set_seed(*flags.seed);
  sampling.set_n(flags.n);
  *sampling.mutable_allowed_token_ids() = {flags.allowed_token_ids.begin(),
                                           flags.allowed_token_ids.end()};
  for (const std::string& bias : flags.logit_bias) {
    MOED_RETURN_IF_ERROR(AddLogitBias(bias, sampling));
  }
  return absl::OkStatus();
}

void SetStopping(const GenerateFlags& flags, v1::StoppingOptions& stopping) {
  if (flags.max_tokens) stopping.set_max_tokens(*flags.max_tokens);
  stopping.set_min_tokens(flags.min_tokens);
  *stopping.mutable_stop() = {flags.stop.begin(), flags.stop.end()};
  *stopping.mutable_stop_token_ids() = {flags.stop_token_ids.begin(), flags.stop_token_ids.end()};
  stopping.set_ignore_eos(flags.ignore_eos);
  stopping.set_include_stop_string(flags.include_stop_string);
}

void SetResponse(const GenerateFlags& flags, v1::ResponseOptions& response) {
  response.set_echo(flags.echo);
  response.set_return_token_ids(flags.return_token_ids || flags.skip_text);
  if (flags.logprobs) response.set_logprobs(*flags.logprobs);
  response.set_skip_text(flags.skip_text);
  response.set_timing(flags.timing);
  if (flags.keep_special_tokens) response.set_skip_special_tokens(false);
}

}  // namespace

absl::StatusOr<v1::GenerateRequest> MakeGenerateRequest(const GenerateFlags& flags,
                                                        const std::string& text) {
  v1::GenerateRequest request;
  if (flags.prompt_token_ids.empty()) {
    request.set_text(text);
  } else {
    *request.mutable_token_ids()->mutable_ids() = {flags.prompt_token_ids.begin(),
                                                   flags.prompt_token_ids.end()};
  }
  MOED_RETURN_IF_ERROR(SetSampling(flags, *request.mutable_sampling()));
  SetStopping(flags, *request.mutable_stopping());
  SetResponse(flags, *request.mutable_response());
  request.set_model(flags.model);
  request.set_priority(flags.priority);
  request.set_cache_salt(flags.cache_salt);
  request.set_client_request_id(flags.client_request_id);
  request.set_bypass_prefix_cache(flags.bypass_prefix_cache);
  if (flags.no_special_tokens) request.set_add_special_tokens(false);
  if (flags.plain_special_tokens) request.set_parse_special_tokens(false);
  return request;
}

}  // namespace moed
