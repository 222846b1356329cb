/// The NCCL communicator, one process per rank: on emulated CUDA devices over the stand-in for NCCL
/// of tests/nccl_stand_in; in a build with CUDA on GPUs over NCCL, where nothing can be made to
/// fail.

#include "engine/comm/nccl_communicator.h"

#include <dlfcn.h>
#include <stdlib.h>

#include <functional>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "config/base/status_macros.h"
#include "engine/comm/nccl_library.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/create_backend.h"
#include "kernels/cuda/cuda_backend.h"
#include "tests/engine/comm/rank_processes.h"

namespace moed {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr CollectiveTag kTag = {.step_id = 12, .layer = 3, .phase = "dispatch"};
#ifdef MOED_WITH_CUDA
constexpr bool kEmulated = false;
const std::string kLibrary;  // libnccl.so.2
#else
constexpr bool kEmulated = true;
const std::string kLibrary = MOED_BINARY_DIR "/libnccl_stand_in.so";
#endif
constexpr absl::Duration kLong = absl::Seconds(60);
constexpr absl::Duration kShort = absl::Milliseconds(300);
/// Calls that joining makes: see CreateNcclCommunicator.
constexpr int kJoiningCalls = 2;

/// One environment variable while it lives.
class ScopedVariable {
 public:
  ScopedVariable(const char* name, const std::string& value) : name_(name) {
    ::setenv(name, value.c_str(), 1);
  }
  ~ScopedVariable() { ::unsetenv(name_); }

 private:
  const char* name_;
};

/// The device and the communicator of one rank.
struct Rank {
  std::unique_ptr<kernels::Backend> backend;
  std::unique_ptr<Communicator> communicator;

  kernels::Buffer Upload(const std::vector<uint8_t>& bytes) {
    auto buffer = backend->Allocate(static_cast<int64_t>(bytes.size()) + 16);
    MOED_CHECK(buffer.ok());
    backend->CopyToDevice(buffer->data(), bytes.data(), static_cast<int64_t>(bytes.size()));
    return *std::move(buffer);
  }
  std::vector<uint8_t> Download(const kernels::Buffer& buffer, size_t size) {
    std::vector<uint8_t> bytes(size);
    backend->CopyToHost(bytes.data(), buffer.data(), static_cast<int64_t>(size));
    return bytes;
  }
};

/// A GPU of the rank's own, or the first for all. NCCL takes ranks on one GPU for ranks of several
/// machines when each has a name of its own, and lets them talk through sockets.
absl::StatusOr<std::unique_ptr<kernels::Backend>> OpenDevice(int32_t rank) {
  auto own = kernels::cuda::CreateCudaBackend({.device = absl::StrCat("cuda:", rank)});
  if (own.ok()) return own;
  ::setenv("NCCL_HOSTID", absl::StrCat("rank-", rank).c_str(), 1);
  ::setenv("NCCL_SOCKET_IFNAME", "lo", 1);
  ::setenv("NCCL_IB_DISABLE", "1", 1);
  ::setenv("NCCL_MAX_CTAS", "1", 1);
  return kernels::cuda::CreateCudaBackend({.device = "cuda:0"});
}

/// Joins as every rank, in a process each, and calls body there.
std::vector<absl::Status> RunNccl(int32_t num_ranks, absl::Duration timeout,
                                  const std::function<absl::Status(Rank&)>& body) {
  const absl::StatusOr<std::string> id = MakeNcclUniqueId(kLibrary);
  EXPECT_TRUE(id.ok()) << id.status();
  return RunRankProcesses(num_ranks, [&](int32_t rank) -> absl::Status {
    Rank own;
    MOED_ASSIGN_OR_RETURN(own.backend, OpenDevice(rank));
    MOED_ASSIGN_OR_RETURN(own.communicator,
                          CreateNcclCommunicator(*own.backend, {.library = kLibrary,
                                                                .unique_id = *id,
                                                                .rank = rank,
                                                                .num_ranks = num_ranks,
                                                                .timeout = timeout}));
    return body(own);
  });
}

void ExpectAllOk(const std::vector<absl::Status>& results) {
  for (size_t r = 0; r < results.size(); ++r)
    EXPECT_TRUE(results[r].ok()) << r << ": " << results[r];
}

/// What rank `from` sends to rank `to` in call `call`: any size from 0 to some chunks of the
/// stand-in, any content, both known to all.
std::vector<uint8_t> Message(int32_t from, int32_t to, int32_t call) {
  std::mt19937 rng(static_cast<uint32_t>(from * 10007 + to * 101 + call));
  const size_t size = rng() % 4 == 0 ? 0 : rng() % 8 == 0 ? 70000 + rng() % 100000 : rng() % 3000;
  std::vector<uint8_t> bytes(size);
  for (uint8_t& b : bytes) b = static_cast<uint8_t>(rng());
  return bytes;
}

void Append(std::vector<uint8_t>& to, std::vector<int64_t>& sizes,
            const std::vector<uint8_t>& add) {
  to.insert(to.end(), add.begin(), add.end());
  sizes.push_back(static_cast<int64_t>(add.size()));
}

absl::Status Expect(const std::vector<uint8_t>& got, const std::vector<uint8_t>& expected,
                    const std::string& what) {
  return got == expected ? absl::OkStatus() : absl::DataLossError(what);
}

absl::Status CheckedAllToAllV(Rank& rank, int32_t call) {
  Communicator& communicator = *rank.communicator;
  std::vector<uint8_t> send, expected;
  std::vector<int64_t> send_bytes, recv_bytes;
  for (int32_t r = 0; r < communicator.num_ranks(); ++r) {
    Append(send, send_bytes, Message(communicator.rank(), r, call));
    Append(expected, recv_bytes, Message(r, communicator.rank(), call));
  }
  const kernels::Buffer from = rank.Upload(send);
  const kernels::Buffer to = rank.Upload(std::vector<uint8_t>(expected.size()));
  MOED_RETURN_IF_ERROR(
      communicator.AllToAllV(from.data(), send_bytes, to.data(), recv_bytes, kTag));
  MOED_RETURN_IF_ERROR(communicator.Finish(kTag));
  return Expect(rank.Download(to, expected.size()), expected, absl::StrCat("all to all ", call));
}

absl::Status CheckedAllGatherV(Rank& rank, int32_t call) {
  Communicator& communicator = *rank.communicator;
  std::vector<uint8_t> expected;
  std::vector<int64_t> bytes;
  for (int32_t r = 0; r < communicator.num_ranks(); ++r) {
    // In every second call all sizes are the same, which is another call of NCCL.
    Append(expected, bytes, Message(call % 2 == 0 ? 0 : r, 0, call));
  }
  const kernels::Buffer from =
      rank.Upload(Message(call % 2 == 0 ? 0 : communicator.rank(), 0, call));
  const kernels::Buffer to = rank.Upload(std::vector<uint8_t>(expected.size()));
  MOED_RETURN_IF_ERROR(communicator.AllGatherV(from.data(), bytes, to.data(), kTag));
  MOED_RETURN_IF_ERROR(communicator.Finish(kTag));
  return Expect(rank.Download(to, expected.size()), expected, absl::StrCat("all gather ", call));
}

/// Two buffers in one call, the second from its place in the result.
absl::Status CheckedAllGather(Rank& rank, int32_t call) {
  Communicator& communicator = *rank.communicator;
  const int32_t num_ranks = communicator.num_ranks();
  const size_t a = 5 + call, b = 70001;
  std::vector<uint8_t> all_a, all_b(num_ranks * b),
      own(a, static_cast<uint8_t>(communicator.rank()));
  for (int32_t r = 0; r < num_ranks; ++r) all_a.insert(all_a.end(), a, static_cast<uint8_t>(r));
  std::vector<uint8_t> before = all_b;
  for (size_t i = 0; i < all_b.size(); ++i) all_b[i] = static_cast<uint8_t>(i / b + i % 251);
  std::copy_n(all_b.begin() + communicator.rank() * b, b, before.begin() + communicator.rank() * b);
  const kernels::Buffer from = rank.Upload(own),
                        to = rank.Upload(std::vector<uint8_t>(all_a.size()));
  const kernels::Buffer in_place = rank.Upload(before);
  const GatherPart parts[] = {
      {.send = from.data(), .recv = to.data(), .bytes = static_cast<int64_t>(a)},
      {.send = in_place.as<uint8_t>() + communicator.rank() * b,
       .recv = in_place.data(),
       .bytes = static_cast<int64_t>(b)}};
  MOED_RETURN_IF_ERROR(communicator.AllGather(parts, kTag));
  MOED_RETURN_IF_ERROR(communicator.Finish(kTag));
  MOED_RETURN_IF_ERROR(Expect(rank.Download(to, all_a.size()), all_a, "all gather, first part"));
  return Expect(rank.Download(in_place, all_b.size()), all_b, "all gather, second part");
}

absl::Status MixedCalls(Rank& rank, int32_t num_calls) {
  for (int32_t call = 0; call < num_calls; ++call) {
    MOED_RETURN_IF_ERROR(CheckedAllToAllV(rank, call));
    MOED_RETURN_IF_ERROR(CheckedAllGatherV(rank, call));
    MOED_RETURN_IF_ERROR(CheckedAllGather(rank, call));
    if (call % 5 == 0) MOED_RETURN_IF_ERROR(rank.communicator->Barrier(kTag));
  }
  return absl::OkStatus();
}

class NcclCommunicatorRanksTest : public testing::TestWithParam<int32_t> {};

TEST_P(NcclCommunicatorRanksTest, EveryByteOfManyMixedCallsArrivesWhereItShould) {
  ExpectAllOk(RunNccl(GetParam(), kLong, [](Rank& rank) { return MixedCalls(rank, 10); }));
}

INSTANTIATE_TEST_SUITE_P(Ranks, NcclCommunicatorRanksTest, testing::Values(1, 2, 3, 4));

TEST(NcclCommunicatorTest, CallsThatAreThroughAtOnceOrAfterManyLooksMoveTheSameBytes) {
  for (const char* polls : {"0", "7"}) {
    const ScopedVariable variable("NCCL_STAND_IN_POLLS", polls);
    ExpectAllOk(RunNccl(2, kLong, [](Rank& rank) { return MixedCalls(rank, 2); }));
  }
}

/// Each rank passes a row on to the next, again and again, by ops and calls alone.
absl::Status PassRowsOn(Rank& rank) {
  const int32_t own = rank.communicator->rank(), num_ranks = rank.communicator->num_ranks();
  const int64_t row = 64;
  std::vector<int64_t> send_bytes(num_ranks), recv_bytes(num_ranks);
  send_bytes[(own + 1) % num_ranks] = row;
  recv_bytes[(own + num_ranks - 1) % num_ranks] = row;
  const kernels::Buffer a = rank.Upload(std::vector<uint8_t>(row, static_cast<uint8_t>(own)));
  const kernels::Buffer b = rank.Upload(std::vector<uint8_t>(row));
  const kernels::Buffer zero = rank.Upload(std::vector<uint8_t>(4));
  const auto view = [&](const kernels::Buffer& buffer) {
    return kernels::TensorView{buffer.data(), DType::kF32, 1, row / 4};
  };
  for (int turn = 0; turn < 3; ++turn) {
    MOED_RETURN_IF_ERROR(
        rank.communicator->AllToAllV(a.data(), send_bytes, b.data(), recv_bytes, kTag));
    rank.backend->GatherRows({view(b), zero.as<int32_t>(), view(a)});
  }
  MOED_RETURN_IF_ERROR(rank.communicator->Finish(kTag));
  const auto from = static_cast<uint8_t>((own + 3 * (num_ranks - 1)) % num_ranks);
  return Expect(rank.Download(a, row), std::vector<uint8_t>(row, from), "the row passed on");
}

TEST(NcclCommunicatorTest, CallsTakeTheirTurnAmongTheOpsWithoutAWaitBetween) {
  ExpectAllOk(RunNccl(3, kLong, PassRowsOn));
}

// ---- what fails: on emulated devices ----

class NcclFailureTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!kEmulated) GTEST_SKIP() << "a real NCCL does not fail on command";
  }
};

enum class Wait { kAfterEachCall, kAtTheEnd };

/// Two calls, in the phases route and dispatch.
absl::Status TwoCalls(Rank& rank, Wait wait) {
  Communicator& communicator = *rank.communicator;
  const CollectiveTag route = {.step_id = 12, .layer = 2, .phase = "route"};
  const std::vector<int64_t> bytes(communicator.num_ranks(), 8);
  const kernels::Buffer from = rank.Upload(std::vector<uint8_t>(8 * bytes.size()));
  const kernels::Buffer to = rank.Upload(std::vector<uint8_t>(8 * bytes.size()));
  MOED_RETURN_IF_ERROR(communicator.AllGatherV(from.data(), bytes, to.data(), route));
  if (wait == Wait::kAfterEachCall) MOED_RETURN_IF_ERROR(communicator.Finish(route));
  MOED_RETURN_IF_ERROR(communicator.AllToAllV(from.data(), bytes, to.data(), bytes, kTag));
  return communicator.Finish({.step_id = 12, .layer = 3, .phase = "wait"});
}

/// The status of two calls, if the rank is then done with its device and refuses more.
absl::Status TwoCallsAndWhatIsLeft(Rank& rank, Wait wait) {
  const absl::Status status = TwoCalls(rank, wait);
  if (status.ok()) return status;
  if (!rank.backend->Synchronize().ok()) return absl::DataLossError("the device has failed too");
  const absl::Status after = rank.communicator->Barrier(kTag);
  if (!absl::IsAborted(after) || !absl::StrContains(after.message(), "failed before")) {
    return absl::DataLossError(absl::StrCat("afterwards: ", after.ToString()));
  }
  return status;
}

/// Three ranks; the fault is that of rank 1.
std::vector<absl::Status> RunWithFault(const std::string& kind, int operation,
                                       Wait wait = Wait::kAfterEachCall) {
  const ScopedVariable fault("NCCL_STAND_IN_FAULT", absl::StrCat(kind, ":1:", operation));
  return RunNccl(3, kShort, [&](Rank& rank) { return TwoCallsAndWhatIsLeft(rank, wait); });
}

void ExpectTimedOutInDispatch(const absl::Status& status, int32_t rank) {
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr(absl::StrCat("rank ", rank, ", step 12, layer 3, dispatch")),
                    HasSubstr("timed out after 300ms"), Not(HasSubstr("route"))));
}

TEST_F(NcclFailureTest, APeerThatDiesIsADeadlineThatNamesRankStepLayerAndPhase) {
  const absl::Time start = absl::Now();
  const std::vector<absl::Status> results = RunWithFault("die", kJoiningCalls + 2);
  EXPECT_EQ(results[1], absl::UnknownError("signal 9"));
  for (const int32_t rank : {0, 2}) ExpectTimedOutInDispatch(results[rank], rank);
  EXPECT_LT(absl::Now() - start, absl::Seconds(20));
}

TEST_F(NcclFailureTest, APeerThatHangsIsADeadlineOnEveryRank) {
  const std::vector<absl::Status> results = RunWithFault("hang", kJoiningCalls + 2);
  for (const int32_t rank : {0, 1, 2}) ExpectTimedOutInDispatch(results[rank], rank);
}

TEST_F(NcclFailureTest, OfSeveralCallsUnderWayTheOneThatHangsIsNamed) {
  const auto results = RunWithFault("hang", kJoiningCalls + 2, Wait::kAtTheEnd);
  for (const int32_t rank : {0, 1, 2}) ExpectTimedOutInDispatch(results[rank], rank);
}

TEST_F(NcclFailureTest, ACallThatStaysInProgressIsADeadline) {
  const std::vector<absl::Status> results = RunWithFault("stuck_call", kJoiningCalls + 2);
  for (const int32_t rank : {0, 1, 2}) ExpectTimedOutInDispatch(results[rank], rank);
  EXPECT_THAT(std::string(results[1].message()), HasSubstr("NCCL was still at it"));
}

TEST_F(NcclFailureTest, AnAsynchronousErrorEndsTheWaitBeforeItsDeadline) {
  const std::vector<absl::Status> results = RunWithFault("async_error", kJoiningCalls + 2);
  EXPECT_TRUE(absl::IsAborted(results[1])) << results[1];
  EXPECT_THAT(std::string(results[1].message()),
              AllOf(HasSubstr("rank 1, step 12, layer 3, dispatch"),
                    HasSubstr("remote process exited or there was a network error (6)")));
  for (const int32_t rank : {0, 2}) ExpectTimedOutInDispatch(results[rank], rank);
}

TEST_F(NcclFailureTest, AnErrorOfACallItselfIsNamed) {
  const std::vector<absl::Status> results = RunWithFault("call_error", kJoiningCalls + 1);
  EXPECT_TRUE(absl::IsInternal(results[1])) << results[1];
  EXPECT_THAT(std::string(results[1].message()),
              AllOf(HasSubstr("rank 1, step 12, layer 2, route"), HasSubstr("internal error (3)")));
}

TEST_F(NcclFailureTest, ARankThatNeverJoinsIsADeadlineOfJoining) {
  for (const char* kind : {"join_hang", "join_error"}) {
    const std::vector<absl::Status> results = RunWithFault(kind, 0);
    for (const int32_t rank : {0, 2}) {
      EXPECT_TRUE(absl::IsDeadlineExceeded(results[rank])) << results[rank];
      EXPECT_THAT(std::string(results[rank].message()), HasSubstr("joining"));
    }
    EXPECT_EQ(absl::IsInternal(results[1]), std::string(kind) == "join_error") << results[1];
  }
}

TEST_F(NcclFailureTest, RanksThatDisagreeOnSizesAreToldSo) {
  const auto results = RunNccl(2, kShort, [](Rank& rank) {
    const int32_t own = rank.communicator->rank();
    const kernels::Buffer buffer = rank.Upload(std::vector<uint8_t>(100));
    std::vector<int64_t> sizes = {10, 10};
    std::vector<int64_t> receives = {10, own == 0 ? 11 : 10};
    absl::Status status = rank.communicator->AllToAllV(
        buffer.data(), sizes, buffer.as<uint8_t>() + 50, own == 0 ? receives : sizes, kTag);
    if (status.ok()) status = rank.communicator->Finish(kTag);
    return status;
  });
  EXPECT_TRUE(absl::IsInternal(results[0])) << results[0];
  EXPECT_THAT(std::string(results[0].message()),
              HasSubstr("rank 1 sends 10 bytes in a call of kind 1 to rank 0, which expects 11"));
  EXPECT_TRUE(absl::IsDeadlineExceeded(results[1])) << results[1];
}

TEST(NcclCommunicatorTest, SizesThatMakeNoSenseAreRefusedBeforeAnythingIsSent) {
  ExpectAllOk(RunNccl(1, kShort, [](Rank& rank) {
    const std::vector<int64_t> good = {4}, negative = {-1}, many = {1, 1}, other = {3};
    const kernels::Buffer buffer = rank.Upload(std::vector<uint8_t>(8));
    for (const std::vector<int64_t>& sizes : {negative, many}) {
      const absl::Status status =
          rank.communicator->AllGatherV(buffer.data(), sizes, buffer.data(), kTag);
      if (absl::IsInvalidArgument(status) || absl::IsAborted(status)) continue;
      return absl::DataLossError(status.ToString());
    }
    return absl::OkStatus();
  }));
}

// ---- the library ----

TEST(NcclLibraryTest, AFileThatIsMissingOrIsNoNcclIsNamed) {
  const absl::Status missing = MakeNcclUniqueId("/no/such/libnccl.so").status();
  EXPECT_TRUE(absl::IsNotFound(missing)) << missing;
  EXPECT_THAT(std::string(missing.message()), HasSubstr("/no/such/libnccl.so"));
  const absl::Status other = MakeNcclUniqueId("libm.so.6").status();
  EXPECT_TRUE(absl::IsFailedPrecondition(other)) << other;
  EXPECT_THAT(std::string(other.message()), HasSubstr("it has no nccl"));
}

TEST(NcclLibraryTest, OptionsThatMakeNoSenseAreRefused) {
  if (!kEmulated) GTEST_SKIP() << "this process must not open a GPU: it forks the ranks";
  const auto cuda = kernels::cuda::CreateCudaBackend({.device = "cuda:0"});
  const auto cpu = kernels::CreateBackend({});
  ASSERT_TRUE(cuda.ok() && cpu.ok());
  const NcclOptions good = {
      .library = kLibrary, .unique_id = std::string(128, '\0'), .num_ranks = 2};
  const auto status_of = [&](kernels::Backend& backend,
                             const std::function<void(NcclOptions&)>& change) {
    NcclOptions options = good;
    change(options);
    return CreateNcclCommunicator(backend, options).status();
  };
  EXPECT_TRUE(absl::IsInvalidArgument(status_of(**cpu, [](NcclOptions&) {})));
  for (const auto& change : std::vector<std::function<void(NcclOptions&)>>{
           [](NcclOptions& o) { o.unique_id = "short"; }, [](NcclOptions& o) { o.rank = 2; },
           [](NcclOptions& o) { o.rank = -1; },
           [](NcclOptions& o) { o.timeout = absl::ZeroDuration(); }}) {
    EXPECT_TRUE(absl::IsInvalidArgument(status_of(**cuda, change)));
  }
  // An id that leads nowhere.
  EXPECT_TRUE(absl::IsInternal(status_of(**cuda, [](NcclOptions&) {})));
}

/// Where there is a real NCCL, our declarations must be its: a machine without a GPU can tell by
/// how far it gets.
TEST(NcclLibraryTest, TheRealLibraryTakesOurStructures) {
  if (!kEmulated) GTEST_SKIP() << "all other tests show it";
  std::string path;
  for (const char* candidate : {"libnccl.so.2", "/usr/local/cuda/lib/libnccl.so.2"}) {
    if (nccl::Library::Load(candidate).ok()) path = candidate;
  }
  if (path.empty()) GTEST_SKIP() << "there is no NCCL here";
  const absl::StatusOr<std::string> id = MakeNcclUniqueId(path);
  ASSERT_TRUE(id.ok()) << id.status();
  EXPECT_NE(*id, std::string(128, '\0'));
  const auto backend = kernels::cuda::CreateCudaBackend({.device = "cuda:0"});
  ASSERT_TRUE(backend.ok());
  const absl::Status status =
      CreateNcclCommunicator(**backend,
                             {.library = path, .unique_id = *id, .num_ranks = 1, .timeout = kLong})
          .status();
  EXPECT_TRUE(absl::IsInternal(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("cuda error")) << status;
}

}  // namespace
}  // namespace moed
