#include "engine/comm/shm_communicator.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <numeric>
#include <random>

#include "engine/comm/shm_segment.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/comm/rank_threads.h"

namespace moed {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr CollectiveTag kTag = {.step_id = 12, .layer = 3, .phase = "dispatch"};
constexpr absl::Duration kShort = absl::Milliseconds(100);

/// What rank `from` sends to rank `to` in call `call`: any size from 0, any content, both known to
/// all.
std::vector<uint8_t> Message(int32_t from, int32_t to, int32_t call) {
  std::mt19937 rng(static_cast<uint32_t>(from * 10007 + to * 101 + call));
  std::vector<uint8_t> bytes(rng() % 4 == 0 ? 0 : rng() % 3000);
  for (uint8_t& b : bytes) b = static_cast<uint8_t>(rng());
  return bytes;
}

void Append(std::vector<uint8_t>& to, std::vector<int64_t>& sizes,
            const std::vector<uint8_t>& add) {
  to.insert(to.end(), add.begin(), add.end());
  sizes.push_back(static_cast<int64_t>(add.size()));
}

absl::Status CheckedAllToAllV(Communicator& communicator, int32_t call) {
  const int32_t rank = communicator.rank();
  std::vector<uint8_t> send, expected;
  std::vector<int64_t> send_bytes, recv_bytes;
  for (int32_t r = 0; r < communicator.num_ranks(); ++r) {
    Append(send, send_bytes, Message(rank, r, call));
    Append(expected, recv_bytes, Message(r, rank, call));
  }
  std::vector<uint8_t> recv(expected.size());
  const absl::Status status =
      communicator.AllToAllV(send.data(), send_bytes, recv.data(), recv_bytes, kTag);
  EXPECT_EQ(recv, expected) << "call " << call;
  return status;
}

absl::Status CheckedAllGatherV(Communicator& communicator, int32_t call) {
  std::vector<uint8_t> expected;
  std::vector<int64_t> bytes;
  for (int32_t r = 0; r < communicator.num_ranks(); ++r)
    Append(expected, bytes, Message(r, 0, call));
  std::vector<uint8_t> recv(expected.size());
  const absl::Status status = communicator.AllGatherV(Message(communicator.rank(), 0, call).data(),
                                                      bytes, recv.data(), kTag);
  EXPECT_EQ(recv, expected) << "call " << call;
  return status;
}

absl::Status MixedCalls(Communicator& communicator, int32_t num_calls) {
  for (int32_t call = 0; call < num_calls; ++call) {
    absl::Status status = call % 3 == 0   ? CheckedAllGatherV(communicator, call)
                          : call % 3 == 1 ? CheckedAllToAllV(communicator, call)
                                          : communicator.Barrier(kTag);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

void ExpectAllOk(const std::vector<absl::Status>& results) {
  for (size_t r = 0; r < results.size(); ++r)
    EXPECT_TRUE(results[r].ok()) << r << ": " << results[r];
}

class ShmCommunicatorRanksTest : public testing::TestWithParam<int32_t> {};

TEST_P(ShmCommunicatorRanksTest, EveryByteOfManyMixedCallsArrivesWhereItShould) {
  const auto group = MakeShmGroup(GetParam(), 3000 * GetParam());
  ExpectAllOk(RunRanks(GetParam(), [&](int32_t rank) { return MixedCalls(*group[rank], 300); }));
}

INSTANTIATE_TEST_SUITE_P(Ranks, ShmCommunicatorRanksTest, testing::Values(1, 2, 3, 4, 8));

TEST(ShmCommunicatorTest, SixtyFourRanksOnFewCoresPassManyBarriers) {
  const auto group = MakeShmGroup(64, 0);
  ExpectAllOk(RunRanks(64, [&](int32_t rank) {
    for (int i = 0; i < 50; ++i) {
      if (absl::Status status = group[rank]->Barrier(kTag); !status.ok()) return status;
    }
    return absl::OkStatus();
  }));
}

TEST(ShmCommunicatorTest, AFullOutboxIsAcceptedAndOneByteMoreEndsTheGroup) {
  const auto group = MakeShmGroup(2, 64);
  const std::vector<uint8_t> send(128, 7);
  const auto results = RunRanks(2, [&](int32_t rank) {
    std::vector<uint8_t> recv(128);
    const int32_t peer = 1 - rank;
    std::vector<int64_t> bytes = {64, 64};
    absl::Status full = group[rank]->AllToAllV(send.data(), bytes, recv.data(), bytes, kTag);
    if (!full.ok()) return full;
    bytes[peer] = 65;
    return group[rank]->AllToAllV(send.data(), bytes, recv.data(), bytes, kTag);
  });
  for (const absl::Status& status : results) {
    const bool refused = absl::IsInvalidArgument(status);
    EXPECT_TRUE(refused || absl::IsAborted(status)) << status;
    EXPECT_THAT(std::string(status.message()),
                HasSubstr(refused ? "65 bytes to send, expected at most 64" : "refused the sizes"));
  }
  EXPECT_TRUE(absl::IsInvalidArgument(results[0]) || absl::IsInvalidArgument(results[1]));
}

TEST(ShmCommunicatorTest, OwnBytesDoNotCountAgainstTheOutbox) {
  const auto group = MakeShmGroup(2, 0);
  ExpectAllOk(RunRanks(2, [&](int32_t rank) {
    const std::vector<uint8_t> send(100, static_cast<uint8_t>(rank + 1));
    std::vector<uint8_t> recv(100);
    std::vector<int64_t> bytes = {0, 0};
    bytes[rank] = 100;
    absl::Status status = group[rank]->AllToAllV(send.data(), bytes, recv.data(), bytes, kTag);
    EXPECT_EQ(recv, send);
    return status;
  }));
}

TEST(ShmCommunicatorTest, SizesThatMakeNoSenseAreRefusedAndWakeThePeer) {
  const std::vector<std::vector<int64_t>> bad = {{},      {1},     {1, 2, 3},
                                                 {-1, 0}, {0, -1}, {INT64_MAX, INT64_MAX}};
  for (const std::vector<int64_t>& sizes : bad) {
    const auto group = MakeShmGroup(2, 64);
    const auto results = RunRanks(2, [&](int32_t rank) {
      return rank == 0 ? group[0]->AllGatherV(nullptr, sizes, nullptr, kTag)
                       : group[1]->Barrier(kTag);
    });
    EXPECT_TRUE(absl::IsInvalidArgument(results[0])) << results[0];
    EXPECT_TRUE(absl::IsAborted(results[1])) << results[1];
    EXPECT_THAT(
        std::string(results[1].message()),
        HasSubstr("rank 0 refused the sizes of its own call at step 12, layer 3, dispatch"));
  }
}

TEST(ShmCommunicatorTest, RanksInDifferentLayersAreToldWhereBothAre) {
  const auto group = MakeShmGroup(2, 64);
  const auto results = RunRanks(2, [&](int32_t rank) {
    return group[rank]->Barrier({.step_id = 5, .layer = 6 + rank, .phase = "combine"});
  });
  for (int32_t r = 0; r < 2; ++r) {
    ASSERT_FALSE(results[r].ok());
    if (!absl::IsInternal(results[r])) continue;  // the peer found out first
    EXPECT_THAT(std::string(results[r].message()), AllOf(HasSubstr("step 5, layer 6, combine"),
                                                         HasSubstr("step 5, layer 7, combine")));
  }
  EXPECT_TRUE(absl::IsInternal(results[0]) || absl::IsInternal(results[1]));
}

TEST(ShmCommunicatorTest, DifferentCallsAtTheSamePlaceAreAnError) {
  const auto group = MakeShmGroup(2, 64);
  const auto results = RunRanks(2, [&](int32_t rank) {
    const std::vector<int64_t> none = {0, 0};
    return rank == 0 ? group[0]->Barrier(kTag) : group[1]->AllGatherV(nullptr, none, nullptr, kTag);
  });
  EXPECT_TRUE(absl::IsInternal(results[0]) || absl::IsInternal(results[1]));
  EXPECT_FALSE(results[0].ok() || results[1].ok());
}

TEST(ShmCommunicatorTest, SizesThatTheSidesDisagreeOnAreAnErrorAndNothingIsWritten) {
  const auto group = MakeShmGroup(2, 64);
  std::vector<uint8_t> recv(2, 0xee);
  const auto results = RunRanks(2, [&](int32_t rank) {
    const std::vector<uint8_t> send(8, 1);
    std::vector<uint8_t> ignored(8);
    const std::vector<int64_t> none = {0, 0}, three = {3, 0}, two = {0, 2};
    return rank == 0 ? group[0]->AllToAllV(send.data(), none, recv.data(), two, kTag)
                     : group[1]->AllToAllV(send.data(), three, ignored.data(), none, kTag);
  });
  ASSERT_TRUE(absl::IsInternal(results[0])) << results[0];
  EXPECT_THAT(std::string(results[0].message()), HasSubstr("rank 1 sent 3 bytes, expected 2"));
  EXPECT_EQ(recv, std::vector<uint8_t>(2, 0xee));
}

TEST(ShmCommunicatorTest, AMissingRankIsNamedWhenTheDeadlinePasses) {
  const auto group = MakeShmGroup(4, 0, kShort);
  const auto results = RunRanks(
      4, [&](int32_t rank) { return rank == 2 ? absl::OkStatus() : group[rank]->Barrier(kTag); });
  int num_deadline = 0;
  for (int32_t r : {0, 1, 3}) {
    num_deadline += absl::IsDeadlineExceeded(results[r]);
    EXPECT_TRUE(absl::IsDeadlineExceeded(results[r]) || absl::IsAborted(results[r])) << results[r];
    EXPECT_THAT(std::string(results[r].message()),
                AllOf(HasSubstr("rank " + std::to_string(r) + ", step 12, layer 3, dispatch"),
                      HasSubstr("waiting for rank 2")));
    EXPECT_GE(group[r]->wait_seconds(), 0.05);
  }
  EXPECT_GE(num_deadline, 1);
  EXPECT_TRUE(absl::IsAborted(group[2]->Barrier(kTag)));
}

TEST(ShmCommunicatorTest, ADestroyedRankEndsTheWaitOfTheOthersAtOnce) {
  auto group = MakeShmGroup(3, 0, absl::Hours(1));
  const auto results = RunRanks(3, [&](int32_t rank) {
    if (rank == 1) {
      group[1].reset();
      return absl::OkStatus();
    }
    return group[rank]->Barrier(kTag);
  });
  for (int32_t r : {0, 2}) {
    EXPECT_TRUE(absl::IsAborted(results[r])) << results[r];
    EXPECT_THAT(std::string(results[r].message()), HasSubstr("rank 1 left the group"));
  }
}

TEST(ShmCommunicatorTest, ACallThatAllHaveReachedSucceedsWhoeverLeavesAfterIt) {
  for (int round = 0; round < 100; ++round) {
    auto group = MakeShmGroup(3, 9000);
    ExpectAllOk(RunRanks(3, [&](int32_t rank) {
      absl::Status status = MixedCalls(*group[rank], 3);
      group[rank].reset();
      return status;
    }));
    if (testing::Test::HasFailure()) break;
  }
}

TEST(ShmCommunicatorTest, AfterAnErrorEveryCallFails) {
  const auto group = MakeShmGroup(2, 0, kShort);
  EXPECT_TRUE(absl::IsDeadlineExceeded(group[0]->Barrier(kTag)));
  for (int i = 0; i < 3; ++i) {
    const absl::Status again = group[0]->Barrier(kTag);
    EXPECT_TRUE(absl::IsAborted(again)) << again;
    EXPECT_THAT(std::string(again.message()), HasSubstr("failed before"));
    EXPECT_TRUE(absl::IsAborted(group[1]->Barrier(kTag)));
  }
}

/// Forks a child that joins as rank 1 and runs `body`.
pid_t ForkRank1(int segment_fd, absl::Duration timeout,
                const std::function<absl::Status(Communicator&)>& body) {
  const pid_t pid = fork();
  if (pid != 0) return pid;
  auto communicator = CreateShmCommunicator(
      segment_fd, {.rank = 1, .num_ranks = 2, .max_bytes_per_rank = 6000, .timeout = timeout});
  _exit(communicator.ok() && body(**communicator).ok() ? 0 : 1);
}

TEST(ShmCommunicatorTest, ProcessesExchangeThroughAnInheritedDescriptor) {
  absl::StatusOr<UniqueFd> fd = CreateShmSegment(2, 6000);
  ASSERT_TRUE(fd.ok()) << fd.status();
  const pid_t pid =
      ForkRank1(fd->get(), absl::Seconds(60), [](Communicator& c) { return MixedCalls(c, 100); });
  ASSERT_GT(pid, 0);
  auto communicator =
      CreateShmCommunicator(fd->get(), {.rank = 0, .num_ranks = 2, .max_bytes_per_rank = 6000});
  ASSERT_TRUE(communicator.ok()) << communicator.status();
  const absl::Status status = MixedCalls(**communicator, 100);
  EXPECT_TRUE(status.ok()) << status;
  int child = -1;
  ASSERT_EQ(waitpid(pid, &child, 0), pid);
  EXPECT_EQ(child, 0);
}

TEST(ShmCommunicatorTest, AKilledProcessIsNoticedByTheDeadline) {
  absl::StatusOr<UniqueFd> fd = CreateShmSegment(2, 6000);
  ASSERT_TRUE(fd.ok()) << fd.status();
  const pid_t pid = ForkRank1(fd->get(), absl::Seconds(60), [](Communicator& c) {
    const absl::Status first = c.Barrier(kTag);
    kill(getpid(), SIGKILL);
    return first;
  });
  ASSERT_GT(pid, 0);
  auto communicator = CreateShmCommunicator(
      fd->get(),
      {.rank = 0, .num_ranks = 2, .max_bytes_per_rank = 6000, .timeout = absl::Seconds(2)});
  ASSERT_TRUE(communicator.ok()) << communicator.status();
  EXPECT_TRUE((*communicator)->Barrier(kTag).ok());
  int child = 0;
  ASSERT_EQ(waitpid(pid, &child, 0), pid);
  EXPECT_TRUE(WIFSIGNALED(child));
  const absl::Status status = (*communicator)->Barrier(kTag);
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("waiting for rank 1"));
}

absl::Status Join(int fd, const ShmOptions& options) {
  return CreateShmCommunicator(fd, options).status();
}

TEST(ShmSegmentTest, AFileThatIsNotASegmentIsRefused) {
  const ShmOptions options = {.rank = 0, .num_ranks = 2, .max_bytes_per_rank = 64};
  EXPECT_TRUE(absl::IsInvalidArgument(Join(-1, options)));
  int pipes[2];
  ASSERT_EQ(pipe(pipes), 0);
  UniqueFd read_end(pipes[0]), write_end(pipes[1]);
  EXPECT_TRUE(absl::IsInvalidArgument(Join(read_end.get(), options)));

  UniqueFd unsealed(memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  const int64_t bytes = *ShmSegmentBytes(2, 64);
  ASSERT_EQ(ftruncate(unsealed.get(), bytes), 0);
  EXPECT_TRUE(absl::IsInvalidArgument(Join(unsealed.get(), options)));
  ASSERT_EQ(fcntl(unsealed.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
  const absl::Status status = Join(unsealed.get(), options);
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("magic"));
}

TEST(ShmSegmentTest, ASegmentOfAnotherShapeIsRefused) {
  absl::StatusOr<UniqueFd> fd = CreateShmSegment(2, 64);
  ASSERT_TRUE(fd.ok()) << fd.status();
  const ShmOptions good = {.rank = 0, .num_ranks = 2, .max_bytes_per_rank = 64};
  for (const auto& change : std::vector<std::function<void(ShmOptions&)>>{
           [](ShmOptions& o) { o.num_ranks = 3; },
           [](ShmOptions& o) { o.max_bytes_per_rank = 65; },  // the same number of pages
           [](ShmOptions& o) { o.max_bytes_per_rank = 100000; },
           [](ShmOptions& o) { o.max_bytes_per_rank = -1; },
           [](ShmOptions& o) { o.rank = 2; },
           [](ShmOptions& o) { o.rank = -1; },
           [](ShmOptions& o) { o.timeout = absl::ZeroDuration(); },
           [](ShmOptions& o) { o.timeout = absl::InfiniteDuration(); },
       }) {
    ShmOptions options = good;
    change(options);
    EXPECT_TRUE(absl::IsInvalidArgument(Join(fd->get(), options))) << Join(fd->get(), options);
  }
  EXPECT_TRUE(Join(fd->get(), good).ok());
  EXPECT_TRUE(absl::IsAlreadyExists(Join(fd->get(), good)));
}

TEST(ShmSegmentTest, SizesOutOfRangeAreRefused) {
  for (const int32_t num_ranks : {-1, 0, 65}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ShmSegmentBytes(num_ranks, 64).status())) << num_ranks;
  }
  for (const int64_t bytes : {int64_t{-1}, int64_t{1} << 41, INT64_MAX}) {
    EXPECT_TRUE(absl::IsInvalidArgument(CreateShmSegment(2, bytes).status())) << bytes;
  }
}

TEST(ShmSegmentTest, HasTwoOutboxesForEachRank) {
  const int64_t step = *ShmSegmentBytes(3, 8192) - *ShmSegmentBytes(2, 8192);
  EXPECT_GE(step, 2 * 8192);
  EXPECT_LE(step, 2 * (8192 + 8192));
}

TEST(SingleRankCommunicatorTest, CopiesItsOwnBytesAndRefusesOtherSizes) {
  const auto communicator = CreateSingleRankCommunicator();
  EXPECT_EQ(communicator->num_ranks(), 1);
  EXPECT_TRUE(MixedCalls(*communicator, 30).ok());
  const std::vector<int64_t> two = {1, 1}, negative = {-1}, one = {1}, none = {0};
  EXPECT_TRUE(absl::IsInvalidArgument(communicator->AllGatherV(nullptr, two, nullptr, kTag)));
  EXPECT_TRUE(absl::IsInvalidArgument(communicator->AllGatherV(nullptr, negative, nullptr, kTag)));
  EXPECT_TRUE(absl::IsInvalidArgument(communicator->AllToAllV(nullptr, one, nullptr, none, kTag)));
  EXPECT_EQ(communicator->wait_seconds(), 0);
}

TEST(MaxExchangeBytesTest, IsTheLargestOfTheThreeExchanges) {
  ExchangeShape shape = {.num_ranks = 4,
                         .max_tokens_per_rank = 10,
                         .hidden_size = 100,
                         .top_k = 6,
                         .max_slots_per_rank = 2,
                         .activation = DType::kBF16};
  EXPECT_EQ(*MaxExchangeBytesPerRank(shape), 3 * 10 * 2 * 100 * 2);  // combine, 2 rows per token
  shape.max_slots_per_rank = 50;
  EXPECT_EQ(*MaxExchangeBytesPerRank(shape), 3 * 10 * 6 * 100 * 2);  // top_k rows per token
  shape.max_slots_per_rank = 0;
  shape.activation = DType::kF32;
  EXPECT_EQ(*MaxExchangeBytesPerRank(shape), 3 * 10 * 100 * 4);  // dispatch alone
  shape.hidden_size = 1;
  EXPECT_EQ(*MaxExchangeBytesPerRank(shape), 10 * 6 * 4);  // topk_ids
  shape.max_gather_tokens = 8;
  EXPECT_EQ(*MaxExchangeBytesPerRank(shape), 3 * 8 * 6 * (1 * 4 + 4));  // blocks of top_k rows
  shape.num_ranks = 1;
  EXPECT_EQ(*MaxExchangeBytesPerRank(shape), 0);
}

TEST(MaxExchangeBytesTest, OverflowAndNegativeCountsAreRefused) {
  const ExchangeShape good = {.num_ranks = 64,
                              .max_tokens_per_rank = 1,
                              .hidden_size = 1,
                              .top_k = 1,
                              .max_slots_per_rank = 1};
  EXPECT_TRUE(MaxExchangeBytesPerRank(good).ok());
  for (const auto& change : std::vector<std::function<void(ExchangeShape&)>>{
           [](ExchangeShape& s) { s.hidden_size = INT64_MAX / 2; },
           [](ExchangeShape& s) { s.hidden_size = 0; },
           [](ExchangeShape& s) { s.num_ranks = 0; },
           [](ExchangeShape& s) { s.max_tokens_per_rank = -1; },
           [](ExchangeShape& s) { s.top_k = 0; },
           [](ExchangeShape& s) { s.max_slots_per_rank = -1; },
       }) {
    ExchangeShape shape = good;
    change(shape);
    EXPECT_TRUE(absl::IsInvalidArgument(MaxExchangeBytesPerRank(shape).status()));
  }
}

}  // namespace
}  // namespace moed
