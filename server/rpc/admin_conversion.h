#pragma once

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "engine/api/expert_placement.h"
#include "moed/v1/admin.pb.h"
#include "server/metrics/rank_view.h"
#include "server/metrics/server_stats.h"
#include "server/rpc/served_model.h"

namespace moed {

/// The operator's view of the daemon. `uptime` is since the start of the daemon. Pure.
v1::GetStatusResponse ToStatusResponse(const ServedModel& model, const ServerStats& stats,
                                       const std::vector<RankView>& ranks, absl::Duration uptime);

/// The operator's view of expert load: tokens_per_expert of `stats` under `placement`. Pure.
v1::GetExpertsResponse ToExpertsResponse(const ServedModel& model, const ServerStats& stats,
                                         const ExpertPlacement& placement);

}  // namespace moed
