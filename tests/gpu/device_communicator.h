#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/comm/communicator.h"

namespace moed {

/// Where the ranks of one process that share one GPU meet: what each wants the others to read. Made
/// by a test, and outlives the communicators.
class DeviceMeetingPoint {
 public:
  explicit DeviceMeetingPoint(int32_t num_ranks);
  ~DeviceMeetingPoint();

  struct Offer {
    const void* base = nullptr;        // device memory
    std::vector<int64_t> begin_bytes;  // [num_ranks + 1] the part of each reader
  };
  int32_t num_ranks() const { return static_cast<int32_t>(offers_.size()); }
  /// Written by rank r before, and read by the others between, two meetings.
  Offer& offer(int32_t rank) { return offers_[rank]; }

  /// Returns when all ranks have called. False when one of them gave up, or did not come in time.
  bool Meet();
  /// Lets all meetings fail.
  void GiveUp();

 private:
  struct State;
  std::vector<Offer> offers_;
  const std::unique_ptr<State> state_;
};

/// The transport between threads of one process with engines on the same GPU: every rank copies
/// from the memory of the others, as peers would over NVLink. For tests; it waits for the device at
/// every call. `meeting_point` must outlive it.
std::unique_ptr<Communicator> CreateDeviceCommunicator(DeviceMeetingPoint& meeting_point,
                                                       int32_t rank);

}  // namespace moed
