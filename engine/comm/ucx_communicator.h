#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/comm/communicator.h"

namespace moed {

inline constexpr int32_t kMaxUcxRanks = 64;

struct UcxOptions {
  int32_t rank = 0;
  int32_t num_ranks = 1;
  int64_t max_bytes_per_rank = 0;  // most bytes one rank sends in one call; the same on every rank
  absl::Duration timeout = absl::Seconds(60);  // of one call
  /// Tells all ranks where this one is, and returns where all are, [num_ranks]. Called once. The
  /// addresses are UCX's own, so they must come from ranks that are trusted.
  std::function<absl::StatusOr<std::vector<std::string>>(const std::string& own_address)>
      share_address;
  /// Polled while a call waits; true ends the call with ABORTED. Null = never.
  std::function<bool()> cancelled;
};

/// Whether this program was built with UCX.
bool HaveUcx();

/// Joins a group of ranks on any hosts: returns when every pair has exchanged a message, so that a
/// peer that cannot be reached shows here. Buffers are host memory. All calls, and the destructor,
/// must come from the thread that calls this. UNIMPLEMENTED without UCX.
absl::StatusOr<std::unique_ptr<Communicator>> CreateUcxCommunicator(const UcxOptions& options);

}  // namespace moed
