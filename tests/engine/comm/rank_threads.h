#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "config/base/check.h"
#include "engine/comm/shm_communicator.h"

namespace moed {

/// One communicator per rank over one fresh shared segment.
inline std::vector<std::unique_ptr<Communicator>> MakeShmGroup(
    int32_t num_ranks, int64_t max_bytes_per_rank, absl::Duration timeout = absl::Seconds(60)) {
  absl::StatusOr<UniqueFd> fd = CreateShmSegment(num_ranks, max_bytes_per_rank);
  MOED_CHECK(fd.ok());
  std::vector<std::unique_ptr<Communicator>> group;
  for (int32_t rank = 0; rank < num_ranks; ++rank) {
    absl::StatusOr<std::unique_ptr<Communicator>> communicator =
        CreateShmCommunicator(fd->get(), {.rank = rank,
                                          .num_ranks = num_ranks,
                                          .max_bytes_per_rank = max_bytes_per_rank,
                                          .timeout = timeout});
    MOED_CHECK(communicator.ok());
    group.push_back(*std::move(communicator));
  }
  return group;
}

/// Calls body(rank) on one thread per rank and returns the results by rank.
inline std::vector<absl::Status> RunRanks(int32_t num_ranks,
                                          const std::function<absl::Status(int32_t rank)>& body) {
  std::vector<absl::Status> results(num_ranks);
  std::vector<std::thread> threads;
  for (int32_t rank = 0; rank < num_ranks; ++rank) {
    threads.emplace_back([&, rank] { results[rank] = body(rank); });
  }
  for (std::thread& thread : threads) thread.join();
  return results;
}

}  // namespace moed
