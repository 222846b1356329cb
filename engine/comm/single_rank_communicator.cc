#include <cstring>

#include "absl/strings/str_cat.h"
#include "config/base/status_macros.h"
#include "engine/comm/shm_communicator.h"

namespace moed {
namespace {

/// The group of one: what a rank sends to itself it has already.
class SingleRankCommunicator final : public Communicator {
 public:
  int32_t rank() const override { return 0; }
  int32_t num_ranks() const override { return 1; }

  absl::Status AllGatherV(const void* send, std::span<const int64_t> bytes_per_rank, void* recv,
                          const CollectiveTag&) override {
    if (bytes_per_rank.size() != 1 || bytes_per_rank[0] < 0) return BadSizes("AllGatherV");
    if (bytes_per_rank[0] > 0) std::memmove(recv, send, static_cast<size_t>(bytes_per_rank[0]));
    return absl::OkStatus();
  }

  absl::Status AllGather(std::span<const GatherPart> parts, const CollectiveTag& tag) override {
    for (const GatherPart& part : parts) {
      const int64_t bytes[] = {part.bytes};
      MOED_RETURN_IF_ERROR(AllGatherV(part.send, bytes, part.recv, tag));
    }
    return absl::OkStatus();
  }

  absl::Status AllToAllV(const void* send, std::span<const int64_t> send_bytes, void* recv,
                         std::span<const int64_t> recv_bytes, const CollectiveTag& tag) override {
    if (recv_bytes.size() != 1 || send_bytes.size() != 1 || recv_bytes[0] != send_bytes[0]) {
      return BadSizes("AllToAllV");
    }
    return AllGatherV(send, send_bytes, recv, tag);
  }

  absl::Status Barrier(const CollectiveTag&) override { return absl::OkStatus(); }
  absl::Status Finish(const CollectiveTag&) override { return absl::OkStatus(); }
  double wait_seconds() const override { return 0; }

 private:
  static absl::Status BadSizes(const char* call) {
    return absl::InvalidArgumentError(
        absl::StrCat(call, " of one rank: expected one size each way, equal and not negative"));
  }
};

}  // namespace

std::unique_ptr<Communicator> CreateSingleRankCommunicator() {
  return std::make_unique<SingleRankCommunicator>();
}

}  // namespace moed
