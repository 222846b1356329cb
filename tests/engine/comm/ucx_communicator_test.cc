#include "engine/comm/ucx_communicator.h"

#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/comm/rank_processes.h"
#include "tests/engine/comm/rank_threads.h"

namespace moed {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr CollectiveTag kTag = {.step_id = 12, .layer = 3, .phase = "dispatch"};
constexpr int32_t kMaxRanks = 8;

/// Where ranks, threads or processes, leave their addresses for each other.
class Board {
 public:
  Board() {
    void* memory = ::mmap(nullptr, sizeof(Entry) * kMaxRanks, PROT_READ | PROT_WRITE,
                          MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MOED_CHECK(memory != MAP_FAILED);
    entries_ = static_cast<Entry*>(memory);
  }
  ~Board() { ::munmap(entries_, sizeof(Entry) * kMaxRanks); }

  std::vector<std::string> Share(int32_t rank, int32_t num_ranks, const std::string& address) {
    MOED_CHECK(address.size() <= sizeof(entries_[rank].bytes));
    std::memcpy(entries_[rank].bytes, address.data(), address.size());
    entries_[rank].size.store(address.size());
    std::vector<std::string> all;
    for (int32_t r = 0; r < num_ranks; ++r) {
      while (entries_[r].size.load() == 0) ::sched_yield();
      all.emplace_back(entries_[r].bytes, entries_[r].size.load());
    }
    return all;
  }

 private:
  struct Entry {
    std::atomic<size_t> size;
    char bytes[4096];
  };
  Entry* entries_;
};

UcxOptions Options(Board& board, int32_t rank, int32_t num_ranks, int64_t max_bytes) {
  UcxOptions options{.rank = rank, .num_ranks = num_ranks, .max_bytes_per_rank = max_bytes};
  options.share_address = [&board, rank, num_ranks](const std::string& own) {
    return board.Share(rank, num_ranks, own);
  };
  return options;
}

using Body = std::function<absl::Status(Communicator&)>;

/// One rank: joins, and does what the test wants.
absl::Status JoinAndRun(const UcxOptions& options, const Body& body) {
  absl::StatusOr<std::unique_ptr<Communicator>> communicator = CreateUcxCommunicator(options);
  if (!communicator.ok()) return communicator.status();
  return body(**communicator);
}

std::vector<absl::Status> RunThreads(int32_t num_ranks, int64_t max_bytes, const Body& body) {
  Board board;
  return RunRanks(num_ranks, [&](int32_t rank) {
    return JoinAndRun(Options(board, rank, num_ranks, max_bytes), body);
  });
}

std::vector<uint8_t> Message(int32_t from, int32_t to, int32_t call) {
  std::mt19937 rng(static_cast<uint32_t>(from * 10007 + to * 101 + call));
  std::vector<uint8_t> bytes(rng() % 4 == 0 ? 0 : rng() % (call % 7 == 0 ? 300000 : 3000));
  for (uint8_t& b : bytes) b = static_cast<uint8_t>(rng());
  return bytes;
}

void Append(std::vector<uint8_t>& to, std::vector<int64_t>& sizes,
            const std::vector<uint8_t>& add) {
  to.insert(to.end(), add.begin(), add.end());
  sizes.push_back(static_cast<int64_t>(add.size()));
}

absl::Status CheckedAllToAllV(Communicator& communicator, int32_t call) {
  std::vector<uint8_t> send, expected;
  std::vector<int64_t> send_bytes, recv_bytes;
  for (int32_t r = 0; r < communicator.num_ranks(); ++r) {
    Append(send, send_bytes, Message(communicator.rank(), r, call));
    Append(expected, recv_bytes, Message(r, communicator.rank(), call));
  }
  std::vector<uint8_t> recv(expected.size());
  const absl::Status status =
      communicator.AllToAllV(send.data(), send_bytes, recv.data(), recv_bytes, kTag);
  EXPECT_EQ(recv == expected, status.ok()) << "call " << call;
  return status;
}

absl::Status CheckedAllGatherV(Communicator& communicator, int32_t call) {
  std::vector<uint8_t> expected;
  std::vector<int64_t> bytes;
  for (int32_t r = 0; r < communicator.num_ranks(); ++r) {
    Append(expected, bytes, Message(r, 0, call));
  }
  std::vector<uint8_t> recv(expected.size());
  const absl::Status status = communicator.AllGatherV(Message(communicator.rank(), 0, call).data(),
                                                      bytes, recv.data(), kTag);
  EXPECT_EQ(recv == expected, status.ok()) << "call " << call;
  return status;
}

/// Two buffers of 3 and 5 bytes; the second is sent from its place in the result.
absl::Status CheckedAllGather(Communicator& communicator) {
  const int32_t num_ranks = communicator.num_ranks();
  const std::string small(3, static_cast<char>('a' + communicator.rank()));
  std::string all_small(3 * num_ranks, '?'), all_large(5 * num_ranks, '?');
  char* const large = all_large.data() + 5 * communicator.rank();
  std::memset(large, 'A' + communicator.rank(), 5);
  const GatherPart parts[] = {{small.data(), all_small.data(), 3}, {large, all_large.data(), 5}};
  const absl::Status status = communicator.AllGather(parts, kTag);
  std::string expected_small, expected_large;
  for (int32_t r = 0; r < num_ranks; ++r) {
    expected_small += std::string(3, static_cast<char>('a' + r));
    expected_large += std::string(5, static_cast<char>('A' + r));
  }
  EXPECT_EQ(all_small, expected_small);
  EXPECT_EQ(all_large, expected_large);
  return status;
}

absl::Status MixedCalls(Communicator& communicator, int32_t num_calls) {
  for (int32_t call = 0; call < num_calls; ++call) {
    absl::Status status = call % 4 == 0   ? CheckedAllGatherV(communicator, call)
                          : call % 4 == 1 ? CheckedAllToAllV(communicator, call)
                          : call % 4 == 2 ? CheckedAllGather(communicator)
                                          : communicator.Barrier(kTag);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

void ExpectAllOk(const std::vector<absl::Status>& results) {
  for (size_t r = 0; r < results.size(); ++r) {
    EXPECT_TRUE(results[r].ok()) << r << ": " << results[r];
  }
}

class UcxCommunicatorRanksTest : public testing::TestWithParam<int32_t> {};

TEST_P(UcxCommunicatorRanksTest, EveryByteOfManyMixedCallsArrivesWhereItShould) {
  ExpectAllOk(RunThreads(GetParam(), 300000 * GetParam(),
                         [](Communicator& communicator) { return MixedCalls(communicator, 80); }));
}

INSTANTIATE_TEST_SUITE_P(Ranks, UcxCommunicatorRanksTest, testing::Values(1, 2, 3, 5));

TEST(UcxCommunicatorTest, MegabytesCrossBothWaysAtOnce) {
  constexpr int64_t kBytes = 9 << 20;
  ExpectAllOk(RunThreads(2, kBytes, [](Communicator& communicator) {
    const std::vector<int64_t> bytes = {communicator.rank() == 0 ? 0 : kBytes,
                                        communicator.rank() == 1 ? 0 : kBytes};
    const std::vector<uint8_t> send(kBytes, static_cast<uint8_t>(communicator.rank() + 1));
    std::vector<uint8_t> recv(kBytes);
    const absl::Status status =
        communicator.AllToAllV(send.data(), bytes, recv.data(), bytes, kTag);
    EXPECT_EQ(recv, std::vector<uint8_t>(kBytes, static_cast<uint8_t>(2 - communicator.rank())));
    return status;
  }));
}

TEST(UcxCommunicatorTest, OneByteTooManyIsRefusedAndThePeerHearsThatTheRankHasLeft) {
  const auto results = RunThreads(2, 64, [](Communicator& communicator) {
    const std::vector<uint8_t> send(128, 7);
    std::vector<uint8_t> recv(128);
    const std::vector<int64_t> bytes = {65, 65};
    if (communicator.rank() == 1) return communicator.Barrier(kTag);
    return communicator.AllToAllV(send.data(), bytes, recv.data(), bytes, kTag);
  });
  EXPECT_TRUE(absl::IsInvalidArgument(results[0])) << results[0];
  EXPECT_THAT(std::string(results[0].message()),
              HasSubstr("65 bytes to send, expected at most 64"));
  EXPECT_TRUE(absl::IsAborted(results[1])) << results[1];
  EXPECT_THAT(std::string(results[1].message()),
              AllOf(HasSubstr("rank 1, step 12, layer 3, dispatch"), HasSubstr("rank 0 has left")));
}

TEST(UcxCommunicatorTest, SizesThatMakeNoSenseAreRefused) {
  const std::vector<std::vector<int64_t>> bad = {{}, {1, 2}, {-1}};
  for (const std::vector<int64_t>& sizes : bad) {
    const auto results = RunThreads(1, 64, [&](Communicator& communicator) {
      return communicator.AllGatherV(nullptr, sizes, nullptr, kTag);
    });
    EXPECT_TRUE(absl::IsInvalidArgument(results[0])) << results[0];
  }
}

TEST(UcxCommunicatorTest, RanksOutOfStepSaySoInsteadOfSwappingRows) {
  const auto results = RunThreads(2, 64, [](Communicator& communicator) {
    CollectiveTag tag = kTag;
    tag.layer += communicator.rank();
    return communicator.Barrier(tag);
  });
  const bool first = absl::IsInternal(results[0]);  // or the other one has closed its connections
  EXPECT_TRUE(first || absl::IsInternal(results[1])) << results[0] << results[1];
  EXPECT_THAT(std::string(results[first ? 0 : 1].message()),
              AllOf(HasSubstr("is at step 12, layer "), HasSubstr("this rank at step 12, layer ")));
}

TEST(UcxCommunicatorTest, APeerThatSendsMoreThanExpectedIsOutOfStep) {
  const auto results = RunThreads(2, 4096, [](Communicator& communicator) {
    const std::vector<uint8_t> send(4096, 7);
    std::vector<uint8_t> recv(4096);
    const std::vector<int64_t> bytes(2, communicator.rank() == 0 ? 100 : 1000);
    return communicator.AllGatherV(send.data(), bytes, recv.data(), kTag);
  });
  EXPECT_TRUE(absl::IsInternal(results[0]) || absl::IsAborted(results[0])) << results[0];
  EXPECT_TRUE(absl::IsInternal(results[1]) || absl::IsAborted(results[1])) << results[1];
  EXPECT_TRUE(absl::IsInternal(results[0]) || absl::IsInternal(results[1]));
}

TEST(UcxCommunicatorTest, AHangingRankIsNamedAtTheDeadlineAndTheGroupIsDead) {
  Board board;
  std::atomic<bool> over = false;
  const auto results = RunRanks(3, [&](int32_t rank) {
    UcxOptions options = Options(board, rank, 3, 64);
    if (rank == 0) options.timeout = absl::Seconds(2);
    return JoinAndRun(options, [&](Communicator& communicator) {
      if (rank == 2) {
        while (!over) ::sched_yield();
        return absl::OkStatus();
      }
      absl::Status status = communicator.Barrier(kTag);
      if (rank == 0) over = true;
      EXPECT_TRUE(absl::IsAborted(communicator.Barrier(kTag)));
      return status;
    });
  });
  EXPECT_TRUE(absl::IsDeadlineExceeded(results[0])) << results[0];
  EXPECT_THAT(std::string(results[0].message()),
              AllOf(HasSubstr("rank 0, step 12, layer 3, dispatch (Barrier"),
                    HasSubstr("timed out after 2s waiting for rank 2")));
  EXPECT_TRUE(absl::IsAborted(results[1])) << results[1];
}

TEST(UcxCommunicatorTest, ACancelledWaitEnds) {
  Board board;
  std::atomic<bool> over = false;
  const auto results = RunRanks(2, [&](int32_t rank) {
    std::atomic<bool> has_joined = false;
    UcxOptions options = Options(board, rank, 2, 64);
    options.cancelled = [&has_joined] { return has_joined.load(); };
    return JoinAndRun(options, [&](Communicator& communicator) {
      has_joined = true;
      if (rank == 1) {
        while (!over) ::sched_yield();
        return absl::OkStatus();
      }
      const absl::Status status = communicator.Barrier(kTag);
      over = true;
      return status;
    });
  });
  EXPECT_TRUE(absl::IsAborted(results[0])) << results[0];
  EXPECT_THAT(std::string(results[0].message()), HasSubstr("the session has ended"));
}

TEST(UcxCommunicatorTest, AKilledProcessIsNamedLongBeforeTheDeadline) {
  Board board;
  const auto results = RunRankProcesses(3, [&](int32_t rank) {
    return JoinAndRun(Options(board, rank, 3, 300000), [&](Communicator& communicator) {
      absl::Status status = MixedCalls(communicator, 8);
      if (rank == 1) ::raise(SIGKILL);
      while (status.ok()) status = communicator.Barrier(kTag);
      return status;
    });
  });
  EXPECT_EQ(results[1].message(), "signal 9");
  for (const int32_t rank : {0, 2}) {
    EXPECT_TRUE(absl::IsAborted(results[rank])) << results[rank];
    EXPECT_THAT(std::string(results[rank].message()),
                AllOf(HasSubstr("step 12, layer 3, dispatch (Barrier"), HasSubstr("has left")));
  }
}

TEST(UcxCommunicatorTest, AddressesOfTooFewRanksAreRefused) {
  UcxOptions options{.rank = 0, .num_ranks = 2};
  options.share_address = [](const std::string& own) { return std::vector<std::string>{own}; };
  const auto communicator = CreateUcxCommunicator(options);
  EXPECT_TRUE(absl::IsInvalidArgument(communicator.status())) << communicator.status();
}

/// As between hosts; UCX would take shared memory.
class TcpOnly : public testing::Environment {
 public:
  void SetUp() override { ::setenv("UCX_TLS", "tcp,self", 1); }
};
[[maybe_unused]] const auto* const kTcpOnly = testing::AddGlobalTestEnvironment(new TcpOnly);

}  // namespace
}  // namespace moed
