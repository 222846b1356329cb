#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

namespace nccl_stand_in {

inline constexpr int kMaxRanks = 16;
inline constexpr size_t kChunkBytes = size_t{64} << 10;

/// From one rank to another, a chunk at a time. The sender writes while it is empty, the receiver
/// reads while it is full.
struct Channel {
  std::atomic<uint32_t> full = 0;
  uint32_t kind = 0;         // OperationKind of both ends
  uint64_t total_bytes = 0;  // of the whole message
  uint64_t chunk_bytes = 0;  // of what is in `data`
  unsigned char data[kChunkBytes];
};

/// What lies at the start of the memory of a group.
struct GroupHeader {
  std::atomic<uint32_t> magic = 0;
  std::atomic<int32_t> num_ranks = 0;      // 0 until the first rank joins
  std::atomic<uint32_t> joined = 0;        // bit r: rank r has joined
  Channel channels[kMaxRanks][kMaxRanks];  // [sender][receiver]
};
static_assert(std::atomic<uint32_t>::is_always_lock_free);

/// How the ranks of a group find its memory: a memfd of the process that made the id, so that
/// nothing is left behind. It travels as an ncclUniqueId.
struct GroupId {
  uint32_t magic = 0;
  int32_t pid = 0;
  int32_t fd = -1;
};

/// Makes the memory of a group, which lives as long as this process or a rank. False when the
/// system refuses.
bool MakeGroup(GroupId& id);

/// The memory of a group as one rank sees it, unmapped with the object.
class GroupMemory {
 public:
  /// Null when there is no such group (any more).
  static std::unique_ptr<GroupMemory> Map(const GroupId& id);
  GroupMemory(const GroupMemory&) = delete;
  GroupMemory& operator=(const GroupMemory&) = delete;
  ~GroupMemory();

  /// False when the rank has joined before, or another number of ranks was agreed on.
  bool Join(int rank, int num_ranks);
  bool AllJoined() const;
  Channel& channel(int from, int to) { return header_->channels[from][to]; }

 private:
  explicit GroupMemory(GroupHeader* header) : header_(header) {}

  GroupHeader* header_;
};

}  // namespace nccl_stand_in
