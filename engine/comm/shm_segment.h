#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/comm/communicator.h"

namespace moed {

inline constexpr int32_t kMaxShmRanks = 64;

// The words below are shared between processes, so they must be plain memory without a lock beside
// it.
static_assert(std::atomic<uint32_t>::is_always_lock_free);
static_assert(std::atomic<uint64_t>::is_always_lock_free);
static_assert(sizeof(std::atomic<uint32_t>) == sizeof(uint32_t), "a futex is 4 bytes");

enum class CollectiveKind : uint32_t { kNone, kAllGatherV, kAllToAllV, kBarrier, kAllGather };

/// CollectiveTag as it lies in shared memory, with what is needed to see that ranks are in step.
struct ShmTag {
  uint64_t call = 0;  // 1 for the first call of a communicator
  uint64_t step_id = 0;
  int32_t layer = 0;
  CollectiveKind kind = CollectiveKind::kNone;
  char phase[24] = {};  // truncated; not necessarily terminated

  bool operator==(const ShmTag&) const = default;
};

ShmTag MakeShmTag(CollectiveKind kind, uint64_t call, const CollectiveTag& tag);

/// "step 12, layer 3, dispatch (AllToAllV, call 77)".
std::string Describe(const ShmTag& tag);

enum class AbortReason : uint32_t { kNone, kTimeout, kLeft, kOutOfStep, kRefused };

/// Why the group ended. The rank that wins `claimed` writes the rest, then publishes it by setting
/// kAbortBit in the release word.
struct alignas(64) ShmAbortRecord {
  std::atomic<uint32_t> claimed = 0;
  int32_t rank = 0;
  AbortReason reason = AbortReason::kNone;
  uint64_t missing_ranks = 0;  // bit r: rank r was missing or at fault
  ShmTag tag;
};

struct alignas(64) ShmRankState {
  std::atomic<uint32_t> attached = 0;
  std::atomic<uint64_t> arrived_call = 0;  // last call whose outbox is complete
};

/// Start of the segment. Its first fields never change after CreateShmSegment.
struct ShmHeader {
  uint64_t magic = 0;
  uint32_t version = 0;
  int32_t num_ranks = 0;
  int64_t max_bytes_per_rank = 0;
  int64_t segment_bytes = 0;
  alignas(64) std::atomic<uint64_t> num_arrivals = 0;  // over all calls and ranks
  /// 2 * (number of the last call at which all ranks have arrived) + kAbortBit; the futex of all
  /// waits.
  alignas(64) std::atomic<uint32_t> release_word = 0;
  ShmAbortRecord abort;
  ShmRankState ranks[kMaxShmRanks];
};

inline constexpr uint32_t kAbortBit = 1;

/// What one rank sends in one call; max_bytes_per_rank bytes of data follow. Written by that rank
/// only.
struct alignas(64) ShmOutbox {
  ShmTag tag;
  int64_t offset[kMaxShmRanks] = {};  // of the bytes for each rank, from the start of the data
  int64_t bytes[kMaxShmRanks] = {};
};

/// The mapping of a segment. Owned by the communicator of one rank.
class ShmSegment {
 public:
  /// INVALID_ARGUMENT unless `fd` is a sealed segment made for exactly these numbers.
  static absl::StatusOr<std::unique_ptr<ShmSegment>> Map(int fd, int32_t num_ranks,
                                                         int64_t max_bytes_per_rank);
  ShmSegment(const ShmSegment&) = delete;
  ShmSegment& operator=(const ShmSegment&) = delete;
  ~ShmSegment();

  ShmHeader& header() const { return *reinterpret_cast<ShmHeader*>(base_); }
  /// Calls with odd and with even numbers use different outboxes.
  ShmOutbox& outbox(int32_t rank, uint64_t call) const;
  std::byte* outbox_data(int32_t rank, uint64_t call) const;
  int64_t max_bytes_per_rank() const { return max_bytes_per_rank_; }

 private:
  ShmSegment(std::byte* base, size_t size_bytes, int64_t max_bytes_per_rank)
      : base_(base), size_bytes_(size_bytes), max_bytes_per_rank_(max_bytes_per_rank) {}

  std::byte* base_;
  size_t size_bytes_;
  int64_t max_bytes_per_rank_;  // as checked at Map: what a peer writes later cannot change it
};

}  // namespace moed
