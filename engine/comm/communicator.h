#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "absl/status/status.h"

namespace moed {

/// Where in a step a collective call happens: it goes into error messages.
struct CollectiveTag {
  uint64_t step_id = 0;
  int32_t layer = 0;
  std::string_view phase;  // "route", "dispatch", "combine", ...
};

/// One buffer of an AllGather: every rank contributes `bytes` bytes, and recv gets all
/// contributions in rank order. send may be this rank's place in recv.
struct GatherPart {
  const void* send = nullptr;
  void* recv = nullptr;
  int64_t bytes = 0;  // of one rank, the same on all
};

/// The rank-to-rank transport. Every rank makes the same calls in the same order.
///
/// Owned by the engine of its rank, called from that engine's compute thread only. Pointers are
/// memory of the rank's backend; the calls take their turn among its ops, and may return before
/// that comes (see Finish). Each wait has a deadline and returns DEADLINE_EXCEEDED or ABORTED
/// naming this rank, the tag and, where the transport knows it, the peer that is missing; after an
/// error the communicator is dead.
class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int32_t rank() const = 0;
  virtual int32_t num_ranks() const = 0;

  /// Rank r contributes bytes_per_rank[r] bytes; recv gets all contributions in rank order.
  virtual absl::Status AllGatherV(const void* send, std::span<const int64_t> bytes_per_rank,
                                  void* recv, const CollectiveTag& tag) = 0;

  /// Several buffers in one call, with sizes that do not depend on the data.
  virtual absl::Status AllGather(std::span<const GatherPart> parts, const CollectiveTag& tag) = 0;

  /// send holds num_ranks() segments in rank order, send_bytes[r] each, for rank r; recv gets the
  /// segments sent to this rank, in rank order, recv_bytes[r] each. Both sides know the sizes.
  virtual absl::Status AllToAllV(const void* send, std::span<const int64_t> send_bytes, void* recv,
                                 std::span<const int64_t> recv_bytes, const CollectiveTag& tag) = 0;

  /// Returns when every rank has come here.
  virtual absl::Status Barrier(const CollectiveTag& tag) = 0;

  /// Returns when all calls so far, and the backend's ops before them, are done. Whoever waits for
  /// the backend in another way must call this before: a missing rank has a deadline only here. An
  /// error names the call that is not done.
  virtual absl::Status Finish(const CollectiveTag& tag) = 0;

  /// Seconds spent waiting for other ranks since construction.
  virtual double wait_seconds() const = 0;
};

}  // namespace moed
