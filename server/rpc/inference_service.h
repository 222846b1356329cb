#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "moed/v1/inference.grpc.pb.h"
#include "server/request/request.h"
#include "server/rpc/admission.h"
#include "server/rpc/generate_reactor.h"
#include "server/rpc/request_ids.h"
#include "server/rpc/served_model.h"
#include "server/rpc/tokenizer_pool.h"
#include "server/step_loop.h"
#include "server/tokenizer/tokenizer.h"

namespace moed {

/// moed.v1.InferenceService: validates, tokenizes, hands requests to the step loop.
///
/// Owned by the RpcServer. Handlers run on gRPC's threads; all state is immutable or atomic.
class InferenceService final : public v1::InferenceService::CallbackService {
 public:
  /// The references must outlive the service.
  struct Params {
    const ServedModel& model;
    const Tokenizer& tokenizer;
    StepLoop& loop;
    const Admission& admission;
    TokenizerPool& tokenizer_pool;
    int64_t max_pending_bytes = 0;  // of one request
    absl::Duration unread_timeout;  // for what is left when a request has ended
    uint32_t random_prefix = 0;     // of request ids
  };
  explicit InferenceService(const Params& params)
      : params_(params), request_ids_(params.random_prefix) {}

  /// Generate calls that gRPC is not done with, whether or not their requests have ended.
  int32_t num_generate_calls() const { return num_generate_calls_; }
  /// What was generated and waits to be taken by the clients of these calls.
  int64_t num_pending_bytes() const { return num_pending_bytes_; }

  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(
      grpc::CallbackServerContext* context, const v1::GenerateRequest* request) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override;
  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context,
                                     const v1::GetModelRequest* request,
                                     v1::GetModelResponse* response) override;

 private:
  struct Call {
    std::string request_id;
    absl::Time arrival;
    absl::Time deadline;
  };
  struct PendingCall {
    Call call;
    std::shared_ptr<GenerateReactor> reactor;
  };
  // What is checked at once, on gRPC's thread.
  absl::Status Begin(const v1::GenerateRequest& message, const TokenGrant& grant,
                     GenerateReactor& reactor) const;
  // Tokenizes and submits; on the tokenizer's threads if there is a text.
  absl::Status Prepare(const v1::GenerateRequest& message, const std::string& tenant,
                       PendingCall pending);
  absl::StatusOr<Request> MakeRequest(const v1::GenerateRequest& message, const Call& call) const;
  absl::StatusOr<std::vector<int32_t>> PromptTokens(const v1::GenerateRequest& message) const;
  absl::Status FillTokens(const v1::TokenizeRequest& request, v1::TokenizeResponse& response) const;
  absl::Status FillText(const v1::DetokenizeRequest& request,
                        v1::DetokenizeResponse& response) const;

  const Params params_;
  RequestIds request_ids_;
  std::atomic<int32_t> num_generate_calls_ = 0;
  std::atomic<int64_t> num_pending_bytes_ = 0;
};

}  // namespace moed
