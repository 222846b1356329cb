#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace moed {

/// Where to ask for the memory of GPUs.
struct DeviceMemoryQuery {
  std::string engine_binary;  // empty = moed-engine beside this program
  std::string device;         // "cuda": GPUs 0 to num_ranks - 1; "cuda:N": that one for all ranks
  int32_t num_ranks = 1;
};

/// Bytes that all ranks together may take: of GPUs of their own as many times the least that one of
/// them has free, of one for all what it has free. The engine program is asked, so that the daemon
/// needs no CUDA and holds no memory of a GPU. Its own words when it cannot tell.
absl::StatusOr<int64_t> AvailableDeviceBytes(const DeviceMemoryQuery& query);

}  // namespace moed
