#pragma once

#include <cstdint>

#include "absl/status/statusor.h"

namespace moed::kernels {

/// The order in which a backend runs its ops, for a transport between ranks that works on the
/// backend's memory and takes its turn among them.
///
/// Owned by the backend, used from the thread that calls its ops.
class OpStream {
 public:
  virtual ~OpStream() = default;

  /// The cudaStream_t of the ops.
  virtual void* handle() const = 0;

  /// A number for this place in the order of ops, larger than all before; never 0. A failure shows
  /// in HasPassed.
  virtual uint64_t Mark() = 0;

  /// Whether all ops before the mark are done; never waits. An older mark may be answered for a
  /// newer one when there are very many between. A failure of the device is its status.
  virtual absl::StatusOr<bool> HasPassed(uint64_t mark) = 0;
};

}  // namespace moed::kernels
