#pragma once

#include <functional>
#include <vector>

#include "absl/time/time.h"
#include "engine/api/expert_placement.h"
#include "moed/v1/admin.grpc.pb.h"
#include "server/metrics/rank_view.h"
#include "server/rpc/admission.h"
#include "server/rpc/served_model.h"
#include "server/step_loop.h"

namespace moed {

/// moed.v1.AdminService: what the operator sees, and draining.
///
/// Owned by the RpcServer. Handlers run on gRPC's threads; all state is immutable.
class AdminService final : public v1::AdminService::CallbackService {
 public:
  /// The references must outlive the service.
  struct Params {
    const ServedModel& model;
    StepLoop& loop;
    const Admission& admission;
    const ExpertPlacement& placement;
    std::function<std::vector<RankView>()> ranks;  // from any thread
    std::function<void()> on_drain;                // from any thread; stops new requests
    std::function<int32_t()> num_requests_left;    // from any thread; what a drain waits for
    absl::Duration drain_timeout;                  // where the caller names none
    absl::Time started;
  };
  explicit AdminService(Params params) : params_(std::move(params)) {}

  grpc::ServerUnaryReactor* GetStatus(grpc::CallbackServerContext* context,
                                      const v1::GetStatusRequest* request,
                                      v1::GetStatusResponse* response) override;
  grpc::ServerUnaryReactor* GetExperts(grpc::CallbackServerContext* context,
                                       const v1::GetExpertsRequest* request,
                                       v1::GetExpertsResponse* response) override;
  grpc::ServerWriteReactor<v1::DrainResponse>* Drain(grpc::CallbackServerContext* context,
                                                     const v1::DrainRequest* request) override;

 private:
  const Params params_;
};

}  // namespace moed
