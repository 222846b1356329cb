#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace moed {

/// One RPC that the server has answered.
struct RpcOutcome {
  absl::string_view service;  // "moed.v1.InferenceService"
  absl::string_view method;   // "Generate"
  absl::StatusCode code = absl::StatusCode::kOk;
  absl::Duration duration;
};

/// The streams of generated text at one moment.
struct StreamStats {
  int32_t num_streams = 0;        // Generate calls that are not done
  int64_t num_pending_bytes = 0;  // generated and not yet taken by their clients
};

/// Where the RPC handlers report what they answered. Called from any thread.
class RpcObserver {
 public:
  virtual ~RpcObserver() = default;
  virtual void OnRpcHandled(const RpcOutcome& outcome) = 0;
};

}  // namespace moed
