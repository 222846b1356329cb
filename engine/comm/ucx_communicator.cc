#include "engine/comm/ucx_communicator.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "config/base/status_macros.h"
#include "engine/comm/shm_segment.h"
#include "engine/comm/ucx_tag.h"
#include "engine/comm/ucx_worker.h"

namespace moed {
namespace {

using Clock = std::chrono::steady_clock;

constexpr absl::Duration kMaxTimeout = absl::Hours(24);
constexpr size_t kMaxAddressBytes = 64 << 10;
/// A hand-over between hosts takes tens of microseconds; who waits longer sleeps, and looks up now
/// and then whether it was cancelled.
constexpr std::chrono::microseconds kSpinTime{200};
constexpr absl::Duration kLookInterval = absl::Milliseconds(20);

/// False when there is not one size per rank, a size is negative, or they do not add up in 63 bits.
bool MakeOffsets(std::span<const int64_t> bytes_per_rank, int32_t num_ranks,
                 std::vector<int64_t>& offsets) {
  if (bytes_per_rank.size() != static_cast<size_t>(num_ranks)) return false;
  offsets.clear();
  uint64_t sum = 0;
  for (const int64_t bytes : bytes_per_rank) {
    if (bytes < 0) return false;
    offsets.push_back(static_cast<int64_t>(sum));
    sum += static_cast<uint64_t>(bytes);
    if (sum > static_cast<uint64_t>(INT64_MAX)) return false;
  }
  return true;
}

void CopyBytes(void* to, const void* from, int64_t bytes) {
  if (bytes > 0 && to != from) std::memcpy(to, from, static_cast<size_t>(bytes));
}

/// Ranks of any hosts, over UCX's tagged messages: one message for each pair and call, none where
/// both sides know that it is empty.
///
/// A receiver takes the next message of each peer whatever its tag, and then compares tag and size
/// with what it expects. After an error this rank's end of UCX is taken down, which ends the waits
/// of all others with an error of their own.
class UcxCommunicator final : public Communicator {
 public:
  UcxCommunicator(std::unique_ptr<UcxWorker> worker, const UcxOptions& options)
      : worker_(std::move(worker)),
        rank_(options.rank),
        num_ranks_(options.num_ranks),
        max_bytes_per_rank_(options.max_bytes_per_rank),
        timeout_(absl::ToChronoNanoseconds(options.timeout)),
        cancelled_(options.cancelled),
        receives_(static_cast<size_t>(options.num_ranks)),
        sends_(static_cast<size_t>(options.num_ranks)) {}

  int32_t rank() const override { return rank_; }
  int32_t num_ranks() const override { return num_ranks_; }
  double wait_seconds() const override { return wait_seconds_; }

  absl::Status AllGatherV(const void* send, std::span<const int64_t> bytes_per_rank, void* recv,
                          const CollectiveTag& tag) override {
    MOED_RETURN_IF_ERROR(Begin(CollectiveKind::kAllGatherV, tag));
    if (!MakeOffsets(bytes_per_rank, num_ranks_, recv_offsets_)) return RefuseSizes();
    MOED_RETURN_IF_ERROR(
        CheckFits(*std::max_element(bytes_per_rank.begin(), bytes_per_rank.end())));
    CopyBytes(static_cast<std::byte*>(recv) + recv_offsets_[rank_], send, bytes_per_rank[rank_]);
    Receive(recv, bytes_per_rank);
    for (int32_t peer = 0; peer < num_ranks_; ++peer) SendTo(peer, send, bytes_per_rank[rank_]);
    return Wait(bytes_per_rank);
  }

  absl::Status AllGather(std::span<const GatherPart> parts, const CollectiveTag& tag) override {
    MOED_RETURN_IF_ERROR(Begin(CollectiveKind::kAllGather, tag));
    int64_t total = 0;
    for (const GatherPart& part : parts) {
      if (part.bytes < 0 || part.bytes > INT64_MAX - total) return RefuseSizes();
      total += part.bytes;
    }
    MOED_RETURN_IF_ERROR(CheckFits(total));
    // One message is cheaper than several, though it must be packed.
    packed_.resize(static_cast<size_t>(total) * static_cast<size_t>(num_ranks_));
    std::byte* own = packed_.data() + total * rank_;
    for (const GatherPart& part : parts) {
      CopyBytes(own, part.send, part.bytes);
      own += part.bytes;
    }
    const std::vector<int64_t> sizes(static_cast<size_t>(num_ranks_), total);
    MakeOffsets(sizes, num_ranks_, recv_offsets_);
    Receive(packed_.data(), sizes);
    const std::byte* send = packed_.data() + total * rank_;
    for (int32_t peer = 0; peer < num_ranks_; ++peer) SendTo(peer, send, total);
    MOED_RETURN_IF_ERROR(Wait(sizes));
    Unpack(parts);
    return absl::OkStatus();
  }

  absl::Status AllToAllV(const void* send, std::span<const int64_t> send_bytes, void* recv,
                         std::span<const int64_t> recv_bytes, const CollectiveTag& tag) override {
    MOED_RETURN_IF_ERROR(Begin(CollectiveKind::kAllToAllV, tag));
    if (!MakeOffsets(send_bytes, num_ranks_, send_offsets_) ||
        !MakeOffsets(recv_bytes, num_ranks_, recv_offsets_) ||
        send_bytes[rank_] != recv_bytes[rank_]) {
      return RefuseSizes();
    }
    MOED_RETURN_IF_ERROR(CheckFits(send_offsets_.back() + send_bytes.back() - send_bytes[rank_]));
    const auto* source = static_cast<const std::byte*>(send);
    CopyBytes(static_cast<std::byte*>(recv) + recv_offsets_[rank_], source + send_offsets_[rank_],
              send_bytes[rank_]);
    Receive(recv, recv_bytes);
    for (int32_t peer = 0; peer < num_ranks_; ++peer) {
      SendTo(peer, source + send_offsets_[peer], send_bytes[peer]);
    }
    return Wait(recv_bytes);
  }

  absl::Status Barrier(const CollectiveTag& tag) override {
    MOED_RETURN_IF_ERROR(Begin(CollectiveKind::kBarrier, tag));
    const std::vector<int64_t> sizes(static_cast<size_t>(num_ranks_), 1);
    const std::byte here{1};
    packed_.resize(static_cast<size_t>(num_ranks_));
    MakeOffsets(sizes, num_ranks_, recv_offsets_);
    Receive(packed_.data(), sizes);
    for (int32_t peer = 0; peer < num_ranks_; ++peer) SendTo(peer, &here, 1);
    return Wait(sizes);
  }

  absl::Status Finish(const CollectiveTag&) override { return absl::OkStatus(); }

 private:
  absl::Status Begin(CollectiveKind kind, const CollectiveTag& tag) {
    tag_ = MakeShmTag(kind, tag_.call + 1, tag);
    wire_tag_ = ucx_tag::Make(0, kind, tag_.call, tag);
    if (first_error_.ok()) return absl::OkStatus();
    return absl::AbortedError(
        absl::StrCat(Here(), ": this rank has failed before: ", first_error_.message()));
  }

  ucp_tag_t TagOf(int32_t sender) const {
    return wire_tag_ | static_cast<uint64_t>(sender) << ucx_tag::kRankShift;
  }

  void Receive(void* recv, std::span<const int64_t> bytes) {
    for (int32_t peer = 0; peer < num_ranks_; ++peer) {
      UcxTransfer& transfer = receives_[peer];
      transfer = {.peer = peer};
      if (peer == rank_ || bytes[peer] == 0) continue;
      worker_->Receive(peer,
                       {.data = static_cast<std::byte*>(recv) + recv_offsets_[peer],
                        .bytes = static_cast<size_t>(bytes[peer])},
                       {.tag = TagOf(peer), .mask = ucx_tag::kRankMask}, transfer);
    }
  }

  void SendTo(int32_t peer, const void* data, int64_t bytes) {
    sends_[peer] = {.peer = peer};
    if (peer == rank_ || bytes == 0) return;
    worker_->Send(peer, data, static_cast<size_t>(bytes), TagOf(rank_), sends_[peer]);
  }

  /// Until all messages of the call have come and gone; checks those that came.
  absl::Status Wait(std::span<const int64_t> recv_bytes) {
    const Clock::time_point start = Clock::now();
    const absl::Status status = WaitForTransfers(start);
    wait_seconds_ += std::chrono::duration<double>(Clock::now() - start).count();
    MOED_RETURN_IF_ERROR(status);
    for (const UcxTransfer& receive : receives_) {
      if (receive.peer == rank_ || recv_bytes[receive.peer] == 0) continue;
      MOED_RETURN_IF_ERROR(CheckReceived(receive, recv_bytes[receive.peer]));
    }
    UcxWorker::Release(receives_);
    UcxWorker::Release(sends_);
    return absl::OkStatus();
  }

  absl::Status WaitForTransfers(Clock::time_point start) {
    while (!AllDone()) {
      if (worker_->Progress()) continue;
      // What had come before a connection was lost has been taken by now.
      MOED_RETURN_IF_ERROR(CheckConnections());
      const auto waited = Clock::now() - start;
      if (waited < kSpinTime) continue;
      if (waited >= timeout_) return TimedOut();
      if (cancelled_ && cancelled_()) {
        return Fail(absl::AbortedError(absl::StrCat(Here(), ": the session has ended")));
      }
      worker_->Sleep(std::min(kLookInterval, absl::FromChrono(timeout_ - waited)));
    }
    return CheckConnections();
  }

  bool AllDone() const {
    const auto done = [](const UcxTransfer& transfer) { return transfer.done(); };
    return std::ranges::all_of(receives_, done) && std::ranges::all_of(sends_, done);
  }

  /// Fails when a message that this call needs can no longer come or go.
  absl::Status CheckConnections() {
    for (int32_t peer = 0; peer < num_ranks_; ++peer) {
      const ucs_status_t lost = worker_->connection(peer);
      if (!receives_[peer].done() && lost != UCS_OK) return PeerLost(peer, lost);
      if (!sends_[peer].done() && lost != UCS_OK) return PeerLost(peer, lost);
      if (sends_[peer].done() && sends_[peer].status != UCS_OK) {
        return PeerLost(peer, sends_[peer].status);
      }
    }
    return absl::OkStatus();
  }

  absl::Status CheckReceived(const UcxTransfer& receive, int64_t bytes) {
    const int32_t peer = receive.peer;
    if (receive.status != UCS_OK && receive.status != UCS_ERR_MESSAGE_TRUNCATED) {
      return PeerLost(peer, receive.status);
    }
    if (receive.status == UCS_OK && receive.info.sender_tag != TagOf(peer)) {
      return OutOfStep(peer, absl::StrCat("is at ", ucx_tag::Describe(receive.info.sender_tag),
                                          ", this rank at ", ucx_tag::Describe(wire_tag_)));
    }
    const bool fits = receive.status == UCS_OK;
    if (fits && receive.info.length == static_cast<size_t>(bytes)) return absl::OkStatus();
    return OutOfStep(peer, absl::StrCat("sent ", fits ? "" : "more than expected: ",
                                        fits ? absl::StrCat(receive.info.length) : "",
                                        fits ? " bytes, " : "", "expected ", bytes));
  }

  void Unpack(std::span<const GatherPart> parts) {
    const std::byte* from = packed_.data();
    for (int32_t peer = 0; peer < num_ranks_; ++peer) {
      for (const GatherPart& part : parts) {
        CopyBytes(static_cast<std::byte*>(part.recv) + peer * part.bytes, from, part.bytes);
        from += part.bytes;
      }
    }
  }

  absl::Status CheckFits(int64_t bytes) {
    if (bytes <= max_bytes_per_rank_) return absl::OkStatus();
    return Fail(absl::InvalidArgumentError(absl::StrCat(
        Here(), ": ", bytes, " bytes to send, expected at most ", max_bytes_per_rank_)));
  }

  absl::Status RefuseSizes() {
    return Fail(absl::InvalidArgumentError(absl::StrCat(
        Here(), ": expected ", num_ranks_,
        " sizes each way, none negative, the own entries equal, with a sum below 2^63")));
  }

  absl::Status OutOfStep(int32_t peer, const std::string& what) {
    return Fail(absl::InternalError(absl::StrCat(Here(), ": rank ", peer, " ", what)));
  }

  absl::Status PeerLost(int32_t peer, ucs_status_t status) {
    return Fail(absl::AbortedError(
        absl::StrCat(Here(), ": rank ", peer, " has left: ", ucs_status_string(status))));
  }

  absl::Status TimedOut() {
    std::vector<int32_t> missing;
    for (int32_t peer = 0; peer < num_ranks_; ++peer) {
      if (!receives_[peer].done() || !sends_[peer].done()) missing.push_back(peer);
    }
    return Fail(absl::DeadlineExceededError(absl::StrCat(
        Here(), ": timed out after ", absl::FormatDuration(absl::FromChrono(timeout_)),
        " waiting for ", missing.size() == 1 ? "rank " : "ranks ", absl::StrJoin(missing, ", "))));
  }

  /// The end of this communicator. Peers that wait for this rank notice once the worker is gone;
  /// closed connections alone tell them nothing.
  absl::Status Fail(absl::Status status) {
    worker_->Abandon(receives_, sends_);
    worker_.reset();
    first_error_ = status;
    return status;
  }

  std::string Here() const { return absl::StrCat("rank ", rank_, ", ", Describe(tag_)); }

  std::unique_ptr<UcxWorker> worker_;  // null after an error
  const int32_t rank_;
  const int32_t num_ranks_;
  const int64_t max_bytes_per_rank_;
  const std::chrono::nanoseconds timeout_;
  const std::function<bool()> cancelled_;
  ShmTag tag_;             // of the current call, or the last one
  uint64_t wire_tag_ = 0;  // the same as it travels, without the sender
  std::vector<int64_t> send_offsets_, recv_offsets_;
  std::vector<std::byte> packed_;      // of AllGather: all contributions, one after the other
  std::vector<UcxTransfer> receives_;  // [num_ranks]
  std::vector<UcxTransfer> sends_;     // [num_ranks]
  absl::Status first_error_;
  double wait_seconds_ = 0;
};

absl::Status CheckOptions(const UcxOptions& options) {
  if (options.num_ranks < 1 || options.num_ranks > kMaxUcxRanks || options.rank < 0 ||
      options.rank >= options.num_ranks) {
    return absl::InvalidArgumentError(absl::StrCat("joining the exchange group: rank ",
                                                   options.rank, " of ", options.num_ranks,
                                                   " ranks, at most ", kMaxUcxRanks));
  }
  if (options.max_bytes_per_rank < 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "joining the exchange group: ", options.max_bytes_per_rank, " bytes per rank"));
  }
  if (options.timeout > absl::ZeroDuration() && options.timeout <= kMaxTimeout) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("joining the exchange group: timeout ", absl::FormatDuration(options.timeout),
                   ", expected above 0 and at most ", absl::FormatDuration(kMaxTimeout)));
}

absl::Status CheckAddresses(const std::vector<std::string>& addresses, const UcxOptions& options) {
  if (addresses.size() != static_cast<size_t>(options.num_ranks)) {
    return absl::InvalidArgumentError(
        absl::StrCat("joining the exchange group: got ", addresses.size(),
                     " addresses of ranks, expected ", options.num_ranks));
  }
  for (size_t rank = 0; rank < addresses.size(); ++rank) {
    if (!addresses[rank].empty() && addresses[rank].size() <= kMaxAddressBytes) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("joining the exchange group: the address of rank ", rank, " has ",
                     addresses[rank].size(), " bytes, expected 1 to ", kMaxAddressBytes));
  }
  return absl::OkStatus();
}

}  // namespace

bool HaveUcx() { return true; }

absl::StatusOr<std::unique_ptr<Communicator>> CreateUcxCommunicator(const UcxOptions& options) {
  MOED_RETURN_IF_ERROR(CheckOptions(options));
  MOED_ASSIGN_OR_RETURN(std::unique_ptr<UcxWorker> worker, UcxWorker::Create());
  MOED_ASSIGN_OR_RETURN(const std::string own_address, worker->Address());
  MOED_ASSIGN_OR_RETURN(const std::vector<std::string> addresses,
                        options.share_address(own_address));
  MOED_RETURN_IF_ERROR(CheckAddresses(addresses, options));
  MOED_RETURN_IF_ERROR(worker->Connect(addresses, options.rank));
  auto communicator = std::make_unique<UcxCommunicator>(std::move(worker), options);
  MOED_RETURN_IF_ERROR(communicator->Barrier({.phase = "join"}));
  return communicator;
}

}  // namespace moed
