#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/comm/communicator.h"
#include "kernels/backend.h"

namespace moed {

struct NcclOptions {
  std::string library;    // file of the NCCL library; "" = libnccl.so.2
  std::string unique_id;  // of MakeNcclUniqueId, the same on every rank
  int32_t rank = 0;
  int32_t num_ranks = 1;
  absl::Duration timeout = absl::Seconds(60);  // of joining, and of each wait
};

/// A fresh name for one group of ranks, in bytes. Whoever makes it, one of the ranks, must live
/// until all have joined: the others find each other through it. Errors of loading the library.
absl::StatusOr<std::string> MakeNcclUniqueId(const std::string& library);

/// Joins the group of unique_id: returns when all ranks have joined and every pair has exchanged
/// something. The calls work on the memory of `backend`, which must have an op_stream() and outlive
/// the communicator, in the order of its ops. All calls, and the destructor, must come from the
/// thread that calls this. DEADLINE_EXCEEDED when some rank did not join in time.
absl::StatusOr<std::unique_ptr<Communicator>> CreateNcclCommunicator(kernels::Backend& backend,
                                                                     const NcclOptions& options);

}  // namespace moed
