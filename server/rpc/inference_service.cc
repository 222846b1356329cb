#include "server/rpc/inference_service.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include "absl/random/random.h"
#include "config/base/status_macros.h"
#include "server/rpc/generate_reactor.h"
#include "server/rpc/request_conversion.h"
#include "server/rpc/status_conversion.h"
#include "server/rpc/validate_request.h"

namespace moed {
namespace {

constexpr absl::string_view kService = "moed.v1.InferenceService";
constexpr RpcMethod kGenerate = {kService, "Generate"};

absl::Status ToStatus(const FieldViolations& violations) {
  return violations.empty() ? absl::OkStatus() : BadRequestError(violations);
}

// A message of proto3 has these as optional fields whose default is true.
template <typename Message>
EncodeOptions ToEncodeOptions(const Message& message) {
  return {
      .add_special_tokens = message.has_add_special_tokens() ? message.add_special_tokens() : true,
      .parse_special_tokens =
          message.has_parse_special_tokens() ? message.parse_special_tokens() : true};
}

absl::Time DeadlineOf(const grpc::CallbackServerContext& context) {
  const auto deadline = context.deadline();
  return deadline == decltype(deadline)::max() ? absl::InfiniteFuture()
                                               : absl::FromChrono(deadline);
}

std::optional<TraceContext> TraceOf(const grpc::CallbackServerContext& context) {
  const auto& metadata = context.client_metadata();
  // A caller that sends two is malformed, as a header with two values is.
  if (metadata.count("traceparent") != 1) return std::nullopt;
  const grpc::string_ref header = metadata.find("traceparent")->second;
  return ParseTraceparent({header.data(), header.size()});
}

// What is held for one request may grow by the prompts that it asked to get back. A text is not
// tokenized yet: it has a token for each byte at most, and those of the model.
int64_t MaxPendingBytes(const v1::GenerateRequest& request, const ServedModel& model,
                        int64_t max_pending_bytes) {
  constexpr int64_t kEchoBytesPerToken = 64;
  if (!request.response().echo()) return max_pending_bytes;
  const auto num_prompt_tokens =
      std::min<int64_t>(std::max<int64_t>(request.text().size(), request.token_ids().ids_size()),
                        model.max_model_len);
  const auto num_sequences = std::clamp(request.sampling().n(), 1, kMaxSequences);
  return max_pending_bytes + kEchoBytesPerToken * num_sequences * num_prompt_tokens;
}

}  // namespace

grpc::ServerWriteReactor<v1::GenerateResponse>* InferenceService::Generate(
    grpc::CallbackServerContext* context, const v1::GenerateRequest* request) {
  const Call call = {
      .request_id = request_ids_.Next(), .arrival = absl::Now(), .deadline = DeadlineOf(*context)};
  const absl::StatusOr<TokenGrant> grant = params_.admission.Admit(*context, kGenerate);
  auto reactor = GenerateReactor::Create(
      {.context = *context,
       .loop = params_.loop,
       .tokenizer = params_.tokenizer,
       .admission = params_.admission,
       .num_calls = num_generate_calls_,
       .num_pending_bytes = num_pending_bytes_,
       .max_pending_bytes = MaxPendingBytes(*request, params_.model, params_.max_pending_bytes),
       .unread_timeout = params_.unread_timeout,
       .request_id = call.request_id,
       .tenant = grant.ok() ? grant->tenant : "",
       .client_request_id = request->client_request_id().substr(0, 128),
       .trace = TraceOf(*context),
       .arrival = call.arrival,
       .deadline = call.deadline});
  absl::Status status = grant.status();
  if (status.ok()) status = Begin(*request, *grant, *reactor);
  if (status.ok()) status = Prepare(*request, grant->tenant, {call, reactor});
  if (!status.ok()) reactor->Refuse(status);
  return reactor.get();
}

absl::Status InferenceService::Begin(const v1::GenerateRequest& message, const TokenGrant& grant,
                                     GenerateReactor& reactor) const {
  MOED_RETURN_IF_ERROR(ToStatus(ValidateGenerateRequest(message, params_.model)));
  MOED_RETURN_IF_ERROR(CheckModelName(message.model(), params_.model));
  MOED_ASSIGN_OR_RETURN(CallTicket ticket, params_.admission.BeginCall(grant));
  reactor.SetTicket(std::move(ticket));
  return absl::OkStatus();
}

// The message lives as long as the call, which cannot finish before it is submitted or refused.
absl::Status InferenceService::Prepare(const v1::GenerateRequest& message,
                                       const std::string& tenant, PendingCall pending) {
  const auto submit = [this, &message, tenant, pending] {
    absl::StatusOr<Request> request = MakeRequest(message, pending.call);
    if (!request.ok()) return pending.reactor->Refuse(request.status());
    request->tenant = tenant;
    pending.reactor->Submit(*std::move(request),
                            {.return_token_ids = message.response().return_token_ids(),
                             .return_logprobs = message.response().has_logprobs()});
  };
  if (message.has_text()) {
    return params_.tokenizer_pool.Post(tenant, static_cast<int64_t>(message.text().size()), submit);
  }
  submit();
  return absl::OkStatus();
}

absl::StatusOr<Request> InferenceService::MakeRequest(const v1::GenerateRequest& message,
                                                      const Call& call) const {
  MOED_ASSIGN_OR_RETURN(std::vector<int32_t> prompt_token_ids, PromptTokens(message));
  absl::BitGen seeds;
  return ToRequest(message, params_.model,
                   {.id = call.request_id,
                    .prompt_token_ids = std::move(prompt_token_ids),
                    .random_seed = absl::Uniform<uint64_t>(seeds),
                    .arrival = call.arrival,
                    .deadline = call.deadline});
}

absl::StatusOr<std::vector<int32_t>> InferenceService::PromptTokens(
    const v1::GenerateRequest& message) const {
  if (message.has_token_ids()) {
    const auto& ids = message.token_ids().ids();
    return std::vector<int32_t>(ids.begin(), ids.end());
  }
  MOED_ASSIGN_OR_RETURN(std::vector<int32_t> ids,
                        params_.tokenizer.Encode(message.text(), ToEncodeOptions(message)));
  MOED_RETURN_IF_ERROR(ToStatus(ValidatePromptTokens(ids, params_.model)));
  return ids;
}

grpc::ServerUnaryReactor* InferenceService::Tokenize(grpc::CallbackServerContext* context,
                                                     const v1::TokenizeRequest* request,
                                                     v1::TokenizeResponse* response) {
  return params_.admission.RunUnaryIn(
      params_.tokenizer_pool, *context, {kService, "Tokenize"},
      static_cast<int64_t>(request->text().size()),
      [this, request, response] { return FillTokens(*request, *response); });
}

absl::Status InferenceService::FillTokens(const v1::TokenizeRequest& request,
                                          v1::TokenizeResponse& response) const {
  MOED_RETURN_IF_ERROR(ToStatus(ValidateTokenizeRequest(request, params_.model)));
  MOED_ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                        params_.tokenizer.Encode(request.text(), ToEncodeOptions(request)));
  response.mutable_token_ids()->Add(ids.begin(), ids.end());
  if (!request.return_pieces()) return absl::OkStatus();
  for (const int32_t id : ids) response.add_pieces(params_.tokenizer.TokenBytes(id));
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* InferenceService::Detokenize(grpc::CallbackServerContext* context,
                                                       const v1::DetokenizeRequest* request,
                                                       v1::DetokenizeResponse* response) {
  return params_.admission.RunUnaryIn(
      params_.tokenizer_pool, *context, {kService, "Detokenize"},
      static_cast<int64_t>(request->token_ids_size() * sizeof(int32_t)),
      [this, request, response] { return FillText(*request, *response); });
}

absl::Status InferenceService::FillText(const v1::DetokenizeRequest& request,
                                        v1::DetokenizeResponse& response) const {
  MOED_RETURN_IF_ERROR(ToStatus(ValidateDetokenizeRequest(request, params_.model)));
  const DecodeOptions options = {.skip_special_tokens = request.has_skip_special_tokens()
                                                            ? request.skip_special_tokens()
                                                            : true};
  response.set_text(params_.tokenizer.Decode(
      {request.token_ids().data(), static_cast<size_t>(request.token_ids_size())}, options));
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* InferenceService::GetModel(grpc::CallbackServerContext* context,
                                                     const v1::GetModelRequest*,
                                                     v1::GetModelResponse* response) {
  return params_.admission.RunUnary(*context, {kService, "GetModel"}, [&] {
    const ServedModel& model = params_.model;
    response->set_name(model.name);
    response->set_architecture(model.config.architecture);
    response->set_vocab_size(model.vocab_size);
    response->set_max_model_len(model.max_model_len);
    response->set_num_layers(static_cast<int32_t>(model.config.num_layers));
    response->set_num_moe_layers(static_cast<int32_t>(model.config.num_moe_layers()));
    response->set_num_experts(static_cast<int32_t>(model.config.num_experts));
    response->set_top_k(static_cast<int32_t>(model.config.top_k));
    response->set_hidden_size(static_cast<int32_t>(model.config.hidden_size));
    for (const int32_t id : model.config.eos_token_ids) response->add_eos_token_ids(id);
    if (model.config.bos_token_id) response->set_bos_token_id(*model.config.bos_token_id);
    response->set_dtype(model.dtype);
    response->set_kv_block_size(model.block_size);
    response->set_server_version(model.server_version);
    return absl::OkStatus();
  });
}

}  // namespace moed
