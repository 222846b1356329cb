#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "client/connection.h"
#include "client/load/prompts/expert_tilt.h"

namespace moed::load {

struct ProbedLoads {
  GroupLoads loads;  // one prompt for each topic
  GroupKind kind = GroupKind::kRanks;
};

struct ProbeParams {
  const Connection& connection;
  const Connection& admin;  // for GetExperts
  const std::vector<std::vector<int32_t>>& topics;
  int64_t num_tokens = 1;  // of each prompt
  const std::function<bool()>& is_stopped;
};

/// Measures which experts a prompt of each topic goes to: sends one after the other and reads the
/// server's expert counts before and after. Nothing else should use the server meanwhile. Groups
/// are ranks, or experts when there is one rank. FAILED_PRECONDITION when the server counts
/// nothing; errors of the calls; CANCELLED when `is_stopped` says so.
absl::StatusOr<ProbedLoads> ProbeTopics(const ProbeParams& params);

}  // namespace moed::load
