#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "config/base/dtype.h"
#include "config/base/unique_fd.h"
#include "engine/comm/communicator.h"

namespace moed {

struct ShmOptions {
  int32_t rank = 0;
  int32_t num_ranks = 1;
  int64_t max_bytes_per_rank = 0;  // most bytes one rank sends in one call; the same on every rank
  absl::Duration timeout = absl::Seconds(60);  // of one call
};

/// An anonymous shared segment for `num_ranks` ranks: created by whoever starts the ranks, passed
/// to each as an inherited file descriptor, gone with the last process that holds it.
absl::StatusOr<UniqueFd> CreateShmSegment(int32_t num_ranks, int64_t max_bytes_per_rank);

/// Bytes of that segment.
absl::StatusOr<int64_t> ShmSegmentBytes(int32_t num_ranks, int64_t max_bytes_per_rank);

/// Maps the segment as one rank. Ranks may be processes or threads of one process. INVALID_ARGUMENT
/// when the segment is not one, or is of another size.
absl::StatusOr<std::unique_ptr<Communicator>> CreateShmCommunicator(int segment_fd,
                                                                    const ShmOptions& options);

/// A communicator of one rank: every call copies or returns at once.
std::unique_ptr<Communicator> CreateSingleRankCommunicator();

/// What bounds the bytes of one collective call of a step.
struct ExchangeShape {
  int32_t num_ranks = 1;
  int32_t max_tokens_per_rank = 0;
  int64_t hidden_size = 0;
  int32_t top_k = 0;
  int32_t max_slots_per_rank = 0;  // most expert slots of one layer on one rank
  int32_t max_gather_tokens = 0;   // most tokens of a rank in a layer where all ranks get all rows
  DType activation = DType::kF32;  // of the rows that travel
};

/// Most bytes one rank sends to others in one collective call of a step, for sizing the segment:
/// the largest of the gathered topk_ids, the dispatch (every token once to every other rank), the
/// combine (min(top_k, max_slots_per_rank) rows for each token of all other ranks), and the
/// gathered rows and returned blocks (top_k rows for each token) of max_gather_tokens tokens.
/// INVALID_ARGUMENT for counts out of range or sizes beyond 63 bits.
absl::StatusOr<int64_t> MaxExchangeBytesPerRank(const ExchangeShape& shape);

}  // namespace moed
