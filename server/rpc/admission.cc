#include "server/rpc/admission.h"

#include "absl/strings/str_cat.h"
#include "config/base/status_macros.h"

namespace moed {

namespace {

// A caller that sends two is taken to have sent none that counts.
absl::string_view Authorization(const grpc::ServerContextBase& context) {
  const auto& metadata = context.client_metadata();
  if (metadata.count("authorization") != 1) return "";
  const grpc::string_ref header = metadata.find("authorization")->second;
  return {header.data(), header.size()};
}

}  // namespace

absl::StatusOr<TokenGrant> Admission::Admit(const grpc::ServerContextBase& context,
                                            const RpcMethod& method) const {
  if (authenticator_ == nullptr) return TokenGrant();
  MOED_ASSIGN_OR_RETURN(TokenGrant grant, authenticator_->Authenticate(
                                              Authorization(context),
                                              absl::StrCat(method.service, "/", method.method)));
  MOED_RETURN_IF_ERROR(quotas_.TakeRequest(grant, absl::Now()));
  return grant;
}

absl::StatusOr<CallTicket> Admission::BeginCall(const TokenGrant& grant) const {
  return quotas_.BeginCall(grant, absl::Now());
}

void Admission::CountHandled(const RpcMethod& method, absl::StatusCode code,
                             absl::Time arrival) const {
  if (observer_ == nullptr) return;
  observer_->OnRpcHandled({.service = method.service,
                           .method = method.method,
                           .code = code,
                           .duration = absl::Now() - arrival});
}

}  // namespace moed
