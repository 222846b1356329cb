#include "engine/comm/nccl_communicator.h"

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "config/base/check.h"
#include "config/base/status_macros.h"
#include "engine/comm/nccl_library.h"

namespace moed {
namespace {

using Clock = std::chrono::steady_clock;

/// A wait spins for the first time, offers its core to others until the second, then sleeps between
/// looks: a healthy exchange takes microseconds, a missing rank the whole timeout.
constexpr std::chrono::microseconds kSpinTime{200};
constexpr std::chrono::milliseconds kYieldTime{20};
constexpr std::chrono::microseconds kSleepTime{200};

constexpr CollectiveTag kJoining = {.phase = "joining"};

/// A call that the stream may not have come to yet.
struct PendingCall {
  uint64_t mark = 0;  // behind it
  std::string description;
};

bool AreSizes(std::span<const int64_t> bytes, int32_t num_ranks) {
  return bytes.size() == static_cast<size_t>(num_ranks) &&
         std::all_of(bytes.begin(), bytes.end(), [](int64_t n) { return n >= 0; });
}

/// Ranks on GPUs, of one host or of many, over NCCL.
///
/// Calls put their work on the backend's stream and return; Finish() waits for it. NCCL's own calls
/// never block (blocking = 0): whatever takes time, joining included, is polled here, so that every
/// wait sees the asynchronous error and ends at its deadline. A failed group is aborted at once:
/// that also frees the stream of kernels that wait for a rank that is gone. NCCL does not say which
/// rank that is; the supervisor, who sees the processes, does.
class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(kernels::Backend& backend, nccl::Library library, const NcclOptions& options)
      : stream_(*backend.op_stream()),
        library_(std::move(library)),
        rank_(options.rank),
        num_ranks_(options.num_ranks),
        timeout_(absl::ToChronoNanoseconds(options.timeout)) {}

  /// Aborts rather than destroys: nothing is under way that anybody wants, and it cannot hang.
  ~NcclCommunicator() override { Abort(); }

  absl::Status Join(const std::string& unique_id, kernels::Backend& backend);

  int32_t rank() const override { return rank_; }
  int32_t num_ranks() const override { return num_ranks_; }
  double wait_seconds() const override { return wait_seconds_; }

  absl::Status AllGatherV(const void* send, std::span<const int64_t> bytes_per_rank, void* recv,
                          const CollectiveTag& tag) override;
  absl::Status AllGather(std::span<const GatherPart> parts, const CollectiveTag& tag) override;
  absl::Status AllToAllV(const void* send, std::span<const int64_t> send_bytes, void* recv,
                         std::span<const int64_t> recv_bytes, const CollectiveTag& tag) override;
  absl::Status Barrier(const CollectiveTag& tag) override;
  absl::Status Finish(const CollectiveTag& tag) override;

 private:
  /// Puts NCCL calls on the stream; the first result that is neither success nor in progress.
  using Enqueue = std::function<nccl::Result(nccl::Stream)>;
  struct PairSizes {
    std::span<const int64_t> send;
    std::span<const int64_t> recv;
  };

  absl::Status Group(const char* kind, const CollectiveTag& tag, const Enqueue& enqueue);
  nccl::Result SendAndReceive(const void* send, void* recv, const PairSizes& bytes,
                              nccl::Stream stream) const;
  absl::Status Begin(const char* kind, const CollectiveTag& tag);
  absl::Status Settle(nccl::Result result);
  absl::Status CheckAsyncError();
  absl::Status AwaitStream();
  absl::Status CheckMark(uint64_t mark, bool& passed);

  absl::Status NcclFailed(nccl::Result result);
  absl::Status TimedOut(const std::string& call, const char* doing);
  absl::Status Fail(absl::Status status);
  std::string FirstUnfinished();
  std::string Here() const { return absl::StrCat("rank ", rank_, ", ", call_); }
  void Abort();

  kernels::OpStream& stream_;
  const nccl::Library library_;
  const int32_t rank_;
  const int32_t num_ranks_;
  const std::chrono::nanoseconds timeout_;
  const std::thread::id thread_ = std::this_thread::get_id();
  nccl::Comm* comm_ = nullptr;
  kernels::Buffer barrier_bytes_;  // [num_ranks] of backend memory
  uint64_t num_calls_ = 0;
  std::string call_;  // the current call, or the last one
  std::vector<PendingCall> pending_;
  absl::Status first_error_;
  double wait_seconds_ = 0;
};

/// Waits in turns that grow longer; false at the deadline. Lives during one wait.
class Poll {
 public:
  explicit Poll(std::chrono::nanoseconds timeout) : timeout_(timeout) {}

  bool Pause() const {
    const Clock::duration waited = Clock::now() - start_;
    if (waited >= timeout_) return false;
    if (waited >= kYieldTime) {
      std::this_thread::sleep_for(kSleepTime);
    } else if (waited >= kSpinTime) {
      sched_yield();
    }
    return true;
  }
  double seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

 private:
  const Clock::time_point start_ = Clock::now();
  const std::chrono::nanoseconds timeout_;
};

absl::Status NcclCommunicator::Join(const std::string& unique_id, kernels::Backend& backend) {
  MOED_ASSIGN_OR_RETURN(barrier_bytes_, backend.Allocate(num_ranks_));
  MOED_RETURN_IF_ERROR(backend.Synchronize());
  MOED_RETURN_IF_ERROR(Begin("CommInitRank", kJoining));
  nccl::UniqueId id;
  std::memcpy(id.internal, unique_id.data(), sizeof(id.internal));
  nccl::Config config = {.blocking = 0};
  MOED_RETURN_IF_ERROR(Settle(library_.CommInitRankConfig(&comm_, num_ranks_, id, rank_, &config)));
  // NCCL connects two ranks when they first need each other: now, not in somebody's first step.
  const std::vector<int64_t> one_byte_each(static_cast<size_t>(num_ranks_), 1);
  MOED_ASSIGN_OR_RETURN(const kernels::Buffer received, backend.Allocate(num_ranks_));
  MOED_RETURN_IF_ERROR(
      AllToAllV(barrier_bytes_.data(), one_byte_each, received.data(), one_byte_each, kJoining));
  MOED_RETURN_IF_ERROR(Barrier(kJoining));
  return Finish(kJoining);
}

absl::Status NcclCommunicator::AllGatherV(const void* send, std::span<const int64_t> bytes_per_rank,
                                          void* recv, const CollectiveTag& tag) {
  MOED_RETURN_IF_ERROR(Begin("AllGatherV", tag));
  if (!AreSizes(bytes_per_rank, num_ranks_)) {
    return Fail(absl::InvalidArgumentError(
        absl::StrCat(Here(), ": expected ", num_ranks_, " sizes, none negative")));
  }
  const int64_t own = bytes_per_rank[rank_];
  if (std::count(bytes_per_rank.begin(), bytes_per_rank.end(), own) == num_ranks_) {
    const GatherPart part = {.send = send, .recv = recv, .bytes = own};
    return AllGather(std::span(&part, 1), tag);
  }
  return Group("AllGatherV", tag, [&](nccl::Stream stream) {
    nccl::Result result = nccl::kSuccess;
    const auto note = [&result](nccl::Result r) {
      if (r != nccl::kSuccess && r != nccl::kInProgress && result == nccl::kSuccess) result = r;
    };
    auto* to = static_cast<std::byte*>(recv);
    for (int32_t r = 0; r < num_ranks_; ++r) {
      const auto bytes = static_cast<size_t>(bytes_per_rank[r]);
      if (own > 0) {
        note(library_.Send(send, static_cast<size_t>(own), nccl::kUint8, r, comm_, stream));
      }
      if (bytes > 0) note(library_.Recv(to, bytes, nccl::kUint8, r, comm_, stream));
      to += bytes;
    }
    return result;
  });
}

absl::Status NcclCommunicator::AllGather(std::span<const GatherPart> parts,
                                         const CollectiveTag& tag) {
  for (const GatherPart& part : parts) {
    if (part.bytes >= 0) continue;
    MOED_RETURN_IF_ERROR(Begin("AllGather", tag));
    return Fail(absl::InvalidArgumentError(
        absl::StrCat(Here(), ": expected sizes that are not negative, got ", part.bytes)));
  }
  return Group("AllGather", tag, [&](nccl::Stream stream) {
    nccl::Result result = nccl::kSuccess;
    for (const GatherPart& part : parts) {
      if (part.bytes == 0) continue;
      const nccl::Result r = library_.AllGather(
          part.send, part.recv, static_cast<size_t>(part.bytes), nccl::kUint8, comm_, stream);
      if (r != nccl::kSuccess && r != nccl::kInProgress && result == nccl::kSuccess) result = r;
    }
    return result;
  });
}

absl::Status NcclCommunicator::AllToAllV(const void* send, std::span<const int64_t> send_bytes,
                                         void* recv, std::span<const int64_t> recv_bytes,
                                         const CollectiveTag& tag) {
  MOED_RETURN_IF_ERROR(Begin("AllToAllV", tag));
  if (!AreSizes(send_bytes, num_ranks_) || !AreSizes(recv_bytes, num_ranks_) ||
      send_bytes[rank_] != recv_bytes[rank_]) {
    return Fail(absl::InvalidArgumentError(
        absl::StrCat(Here(), ": expected ", num_ranks_,
                     " sizes each way, none negative, the own entries equal")));
  }
  return Group("AllToAllV", tag, [&](nccl::Stream stream) {
    return SendAndReceive(send, recv, {send_bytes, recv_bytes}, stream);
  });
}

absl::Status NcclCommunicator::Barrier(const CollectiveTag& tag) {
  auto* bytes = barrier_bytes_.as<std::byte>();
  const GatherPart part = {.send = bytes + rank_, .recv = bytes, .bytes = 1};
  MOED_RETURN_IF_ERROR(AllGather(std::span(&part, 1), tag));
  return Finish(tag);
}

absl::Status NcclCommunicator::Finish(const CollectiveTag& tag) {
  if (pending_.empty() && first_error_.ok()) return absl::OkStatus();
  MOED_RETURN_IF_ERROR(Begin("Finish", tag));
  return AwaitStream();
}

/// Pairs without bytes are left out on both sides, as NCCL wants it; all others are in one group,
/// so that none waits for another.
nccl::Result NcclCommunicator::SendAndReceive(const void* send, void* recv, const PairSizes& bytes,
                                              nccl::Stream stream) const {
  nccl::Result result = nccl::kSuccess;
  const auto note = [&result](nccl::Result r) {
    if (r != nccl::kSuccess && r != nccl::kInProgress && result == nccl::kSuccess) result = r;
  };
  const auto* from = static_cast<const std::byte*>(send);
  auto* to = static_cast<std::byte*>(recv);
  for (int32_t r = 0; r < num_ranks_; ++r) {
    const auto out = static_cast<size_t>(bytes.send[r]), in = static_cast<size_t>(bytes.recv[r]);
    if (out > 0) note(library_.Send(from, out, nccl::kUint8, r, comm_, stream));
    if (in > 0) note(library_.Recv(to, in, nccl::kUint8, r, comm_, stream));
    from += out;
    to += in;
  }
  return result;
}

absl::Status NcclCommunicator::Begin(const char* kind, const CollectiveTag& tag) {
  MOED_CHECK(std::this_thread::get_id() == thread_);
  call_ = absl::StrCat("step ", tag.step_id, ", layer ", tag.layer, ", ",
                       absl::string_view(tag.phase.data(), tag.phase.size()), " (", kind, ", call ",
                       num_calls_ + 1, ")");
  if (first_error_.ok()) return absl::OkStatus();
  return absl::AbortedError(
      absl::StrCat(Here(), ": this rank has failed before: ", first_error_.message()));
}

absl::Status NcclCommunicator::Group(const char* kind, const CollectiveTag& tag,
                                     const Enqueue& enqueue) {
  MOED_RETURN_IF_ERROR(Begin(kind, tag));
  ++num_calls_;
  const nccl::Stream stream = stream_.handle();
  nccl::Result result = library_.GroupStart();
  if (result != nccl::kSuccess) return NcclFailed(result);
  result = enqueue(stream);
  const nccl::Result end = library_.GroupEnd();  // also after an error: a group must be closed
  MOED_RETURN_IF_ERROR(Settle(result == nccl::kSuccess ? end : result));
  pending_.push_back({stream_.Mark(), Here()});
  return absl::OkStatus();
}

/// Polls until the call that gave `result` has done its part on the host.
absl::Status NcclCommunicator::Settle(nccl::Result result) {
  const Poll poll(timeout_);
  while (result == nccl::kInProgress) {
    if (!poll.Pause()) return TimedOut(Here(), "NCCL was still at it");
    const nccl::Result asked = library_.CommGetAsyncError(comm_, &result);
    if (asked != nccl::kSuccess) result = asked;
  }
  wait_seconds_ += poll.seconds();
  return result == nccl::kSuccess ? absl::OkStatus() : NcclFailed(result);
}

absl::Status NcclCommunicator::CheckAsyncError() {
  nccl::Result error = nccl::kSuccess;
  const nccl::Result asked = library_.CommGetAsyncError(comm_, &error);
  if (asked != nccl::kSuccess) error = asked;
  if (error == nccl::kSuccess || error == nccl::kInProgress) return absl::OkStatus();
  call_ = FirstUnfinished();
  return NcclFailed(error);
}

absl::Status NcclCommunicator::CheckMark(uint64_t mark, bool& passed) {
  const absl::StatusOr<bool> answer = stream_.HasPassed(mark);
  if (!answer.ok()) {
    return Fail(absl::Status(answer.status().code(),
                             absl::StrCat(Here(), ": ", answer.status().message())));
  }
  passed = *answer;
  return absl::OkStatus();
}

absl::Status NcclCommunicator::AwaitStream() {
  const uint64_t end = stream_.Mark();
  const Poll poll(timeout_);
  for (bool passed = false;;) {
    MOED_RETURN_IF_ERROR(CheckMark(end, passed));
    if (passed) break;
    MOED_RETURN_IF_ERROR(CheckAsyncError());
    if (!poll.Pause()) {
      return TimedOut(FirstUnfinished(), "a rank is missing or hangs, NCCL does not tell which");
    }
  }
  wait_seconds_ += poll.seconds();
  pending_.clear();
  return absl::OkStatus();
}

/// The description of the call that the stream is at.
std::string NcclCommunicator::FirstUnfinished() {
  for (const PendingCall& call : pending_) {
    const absl::StatusOr<bool> passed = stream_.HasPassed(call.mark);
    if (!passed.ok() || !*passed) return call.description;
  }
  return Here();
}

absl::Status NcclCommunicator::NcclFailed(nccl::Result result) {
  const char* detail = comm_ == nullptr ? nullptr : library_.GetLastError(comm_);
  const std::string message = absl::StrCat(
      Here(), ": NCCL: ", library_.GetErrorString(result), " (", int{result}, ")",
      detail == nullptr || *detail == '\0' ? "" : ": ", detail == nullptr ? "" : detail);
  return Fail(result == nccl::kRemoteError ? absl::AbortedError(message)
                                           : absl::InternalError(message));
}

absl::Status NcclCommunicator::TimedOut(const std::string& call, const char* doing) {
  return Fail(absl::DeadlineExceededError(absl::StrCat(
      call, ": timed out after ", absl::FormatDuration(absl::FromChrono(timeout_)), ": ", doing)));
}

absl::Status NcclCommunicator::Fail(absl::Status status) {
  first_error_ = status;
  Abort();
  return status;
}

void NcclCommunicator::Abort() {
  if (comm_ != nullptr) library_.CommAbort(std::exchange(comm_, nullptr));
  pending_.clear();
}

absl::Status CheckOptions(kernels::Backend& backend, const NcclOptions& options) {
  const std::string doing =
      absl::StrCat("joining the NCCL group as rank ", options.rank, " of ", options.num_ranks);
  if (options.rank < 0 || options.rank >= options.num_ranks) {
    return absl::InvalidArgumentError(doing);
  }
  if (options.unique_id.size() != sizeof(nccl::UniqueId)) {
    return absl::InvalidArgumentError(absl::StrCat(doing, ": the unique id has ",
                                                   options.unique_id.size(), " bytes, expected ",
                                                   sizeof(nccl::UniqueId)));
  }
  if (options.timeout <= absl::ZeroDuration() || options.timeout > absl::Hours(24)) {
    return absl::InvalidArgumentError(absl::StrCat(
        doing, ": timeout ", absl::FormatDuration(options.timeout), ", expected at most 24h"));
  }
  if (backend.op_stream() == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat(doing, ": NCCL moves memory of GPUs, not of ", backend.device()));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> MakeNcclUniqueId(const std::string& library) {
  MOED_ASSIGN_OR_RETURN(const nccl::Library loaded, nccl::Library::Load(library));
  nccl::UniqueId id;
  if (const nccl::Result result = loaded.GetUniqueId(&id); result != nccl::kSuccess) {
    return absl::InternalError(absl::StrCat("asking NCCL (", loaded.path, ") for a unique id: ",
                                            loaded.GetErrorString(result), " (", int{result}, ")"));
  }
  return std::string(id.internal, sizeof(id.internal));
}

absl::StatusOr<std::unique_ptr<Communicator>> CreateNcclCommunicator(kernels::Backend& backend,
                                                                     const NcclOptions& options) {
  MOED_RETURN_IF_ERROR(CheckOptions(backend, options));
  MOED_ASSIGN_OR_RETURN(nccl::Library library, nccl::Library::Load(options.library));
  auto communicator = std::make_unique<NcclCommunicator>(backend, std::move(library), options);
  MOED_RETURN_IF_ERROR(communicator->Join(options.unique_id, backend));
  return communicator;
}

}  // namespace moed
