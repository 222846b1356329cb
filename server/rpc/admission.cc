#include "server/rpc/admission.h"

namespace moed {

absl::Status Admission::Admit(const grpc::ServerContextBase& context) const {
  if (authenticator_ == nullptr) return absl::OkStatus();
  const auto& metadata = context.client_metadata();
  const auto header = metadata.find("authorization");
  if (header == metadata.end()) return authenticator_->Check("");
  return authenticator_->Check({header->second.data(), header->second.size()});
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
