#include "engine/comm/shm_communicator.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <climits>
#include <cstring>
#include <ctime>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "config/base/status_macros.h"
#include "engine/comm/shm_segment.h"

namespace moed {
namespace {

using Clock = std::chrono::steady_clock;

constexpr absl::Duration kMaxTimeout = absl::Hours(24);
/// A hand-over between two ranks that both run takes less than the first; after it the spin offers
/// its core to others at each turn, since the rank waited for may want it; after the second it
/// sleeps.
constexpr std::chrono::microseconds kPauseTime{3};
constexpr std::chrono::microseconds kSpinTime{50};

void FutexWakeAll(std::atomic<uint32_t>& word) {
  syscall(SYS_futex, &word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

/// Sleeps while word == seen, for at most `timeout`. May return early for any reason.
void FutexWait(std::atomic<uint32_t>& word, uint32_t seen, std::chrono::nanoseconds timeout) {
  const timespec relative = {.tv_sec = static_cast<time_t>(timeout.count() / 1'000'000'000),
                             .tv_nsec = static_cast<long>(timeout.count() % 1'000'000'000)};
  syscall(SYS_futex, &word, FUTEX_WAIT, seen, &relative, nullptr, 0);
}

void SpinPause() {
  for (int i = 0; i < 32; ++i) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }
}

std::string RankList(uint64_t mask) {
  std::vector<int32_t> ranks;
  for (int32_t r = 0; r < kMaxShmRanks; ++r) {
    if (mask >> r & 1) ranks.push_back(r);
  }
  if (ranks.empty()) return "no rank (all had arrived by then)";
  return absl::StrCat(ranks.size() == 1 ? "rank " : "ranks ", absl::StrJoin(ranks, ", "));
}

std::string DescribeReason(const ShmAbortRecord& abort) {
  switch (abort.reason) {
    case AbortReason::kTimeout:
      return "timed out waiting for " + RankList(abort.missing_ranks);
    case AbortReason::kLeft:
      return "left the group";
    case AbortReason::kOutOfStep:
      return "was out of step with " + RankList(abort.missing_ranks);
    case AbortReason::kRefused:
      return "refused the sizes of its own call";
    case AbortReason::kNone:
      break;
  }
  return "failed for an unknown reason";
}

/// Sizes by rank of one side of a call, as offsets of consecutive segments.
struct Segments {
  std::array<int64_t, kMaxShmRanks> bytes = {};
  std::array<int64_t, kMaxShmRanks> offset = {};
};

/// False when there is not one size per rank, a size is negative, or they do not add up in 63 bits.
bool MakeSegments(std::span<const int64_t> bytes_per_rank, int32_t num_ranks, Segments& out) {
  if (bytes_per_rank.size() != static_cast<size_t>(num_ranks)) return false;
  uint64_t sum = 0;
  for (int32_t r = 0; r < num_ranks; ++r) {
    if (bytes_per_rank[r] < 0) return false;
    out.bytes[r] = bytes_per_rank[r];
    out.offset[r] = static_cast<int64_t>(sum);
    sum += static_cast<uint64_t>(bytes_per_rank[r]);
    if (sum > static_cast<uint64_t>(INT64_MAX)) return false;
  }
  return true;
}

void CopyBytes(void* to, const void* from, int64_t bytes) {
  if (bytes > 0 && to != from) std::memcpy(to, from, static_cast<size_t>(bytes));
}

/// Ranks of one host, as processes or threads, over one segment of shared memory.
///
/// A call is: copy what the others get into the own outbox; arrive; wait until all have arrived;
/// copy out of the others' outboxes. One barrier per call is enough because outboxes alternate
/// between calls: a rank overwrites the outbox of call n in call n + 2, after it has passed the
/// barrier of call n + 1; by then every rank has arrived at call n + 1, which it does only after it
/// has read all it needs of call n.
///
/// Each copy is made by the rank that needs it, so no rank touches another's private memory. A rank
/// that gives up for any reason sets the abort bit, which ends the waits of all others at once; a
/// rank killed from outside cannot, and is noticed by the deadline (or by whoever supervises the
/// processes).
class ShmCommunicator final : public Communicator {
 public:
  ShmCommunicator(std::unique_ptr<ShmSegment> segment, const ShmOptions& options)
      : segment_(std::move(segment)),
        header_(segment_->header()),
        rank_(options.rank),
        num_ranks_(options.num_ranks),
        timeout_(absl::ToChronoNanoseconds(options.timeout)) {
    // Spinning helps only if the ranks waited for can run meanwhile.
    if (num_ranks_ <= sysconf(_SC_NPROCESSORS_ONLN)) spin_time_ = kSpinTime;
  }

  /// Others that are past their last call do not notice; others that wait for this rank do.
  ~ShmCommunicator() override { AbortGroup(AbortReason::kLeft, 0); }

  int32_t rank() const override { return rank_; }
  int32_t num_ranks() const override { return num_ranks_; }
  double wait_seconds() const override { return wait_seconds_; }

  absl::Status AllGatherV(const void* send, std::span<const int64_t> bytes_per_rank, void* recv,
                          const CollectiveTag& tag) override {
    MOED_RETURN_IF_ERROR(Begin(CollectiveKind::kAllGatherV, tag));
    Segments in;
    if (!MakeSegments(bytes_per_rank, num_ranks_, in)) return RefuseSizes();
    MOED_RETURN_IF_ERROR(
        CheckFits(*std::max_element(bytes_per_rank.begin(), bytes_per_rank.end())));
    Segments out;  // the same bytes, from the same place, for everyone
    std::fill_n(out.bytes.begin(), num_ranks_, in.bytes[rank_]);
    FillOutbox(out);
    CopyBytes(segment_->outbox_data(rank_, tag_.call), send, in.bytes[rank_]);
    MOED_RETURN_IF_ERROR(ArriveAndWait());
    CopyBytes(static_cast<std::byte*>(recv) + in.offset[rank_], send, in.bytes[rank_]);
    return Receive(in, recv);
  }

  absl::Status AllGather(std::span<const GatherPart> parts, const CollectiveTag& tag) override {
    MOED_RETURN_IF_ERROR(Begin(CollectiveKind::kAllGather, tag));
    int64_t total = 0;
    for (const GatherPart& part : parts) {
      if (part.bytes < 0 || part.bytes > INT64_MAX - total) return RefuseSizes();
      total += part.bytes;
    }
    MOED_RETURN_IF_ERROR(CheckFits(total));
    Segments out;
    std::fill_n(out.bytes.begin(), num_ranks_, total);
    FillOutbox(out);
    std::byte* data = segment_->outbox_data(rank_, tag_.call);
    for (const GatherPart& part : parts) {
      CopyBytes(data, part.send, part.bytes);
      data += part.bytes;
    }
    MOED_RETURN_IF_ERROR(ArriveAndWait());
    return ReceiveParts(parts, total);
  }

  absl::Status AllToAllV(const void* send, std::span<const int64_t> send_bytes, void* recv,
                         std::span<const int64_t> recv_bytes, const CollectiveTag& tag) override {
    MOED_RETURN_IF_ERROR(Begin(CollectiveKind::kAllToAllV, tag));
    Segments from, in;
    if (!MakeSegments(send_bytes, num_ranks_, from) || !MakeSegments(recv_bytes, num_ranks_, in) ||
        from.bytes[rank_] != in.bytes[rank_]) {
      return RefuseSizes();
    }
    Segments out;
    const int64_t total = PackForOthers(from, out);
    MOED_RETURN_IF_ERROR(CheckFits(total));
    FillOutbox(out);
    const auto* source = static_cast<const std::byte*>(send);
    for (int32_t r = 0; r < num_ranks_; ++r) {
      CopyBytes(segment_->outbox_data(rank_, tag_.call) + out.offset[r], source + from.offset[r],
                out.bytes[r]);
    }
    MOED_RETURN_IF_ERROR(ArriveAndWait());
    CopyBytes(static_cast<std::byte*>(recv) + in.offset[rank_], source + from.offset[rank_],
              in.bytes[rank_]);
    return Receive(in, recv);
  }

  absl::Status Barrier(const CollectiveTag& tag) override {
    MOED_RETURN_IF_ERROR(Begin(CollectiveKind::kBarrier, tag));
    FillOutbox(Segments());
    MOED_RETURN_IF_ERROR(ArriveAndWait());
    return Receive(Segments(), nullptr);
  }

  absl::Status Finish(const CollectiveTag&) override { return absl::OkStatus(); }

 private:
  enum class WaitOutcome { kReleased, kAborted, kTimedOut };

  absl::Status Begin(CollectiveKind kind, const CollectiveTag& tag) {
    tag_ = MakeShmTag(kind, tag_.call + 1, tag);
    if (!first_error_.ok()) {
      return absl::AbortedError(
          absl::StrCat(Here(), ": this rank has failed before: ", first_error_.message()));
    }
    if (header_.release_word.load(std::memory_order_acquire) & kAbortBit) return PeerAborted();
    return absl::OkStatus();
  }

  /// The segments of `from` that go to other ranks, one after the other; returns their sum.
  int64_t PackForOthers(const Segments& from, Segments& out) const {
    int64_t total = 0;
    for (int32_t r = 0; r < num_ranks_; ++r) {
      if (r == rank_) continue;
      out.offset[r] = total;
      out.bytes[r] = from.bytes[r];
      total += from.bytes[r];
    }
    return total;
  }

  void FillOutbox(const Segments& out) {
    ShmOutbox& outbox = segment_->outbox(rank_, tag_.call);
    outbox.tag = tag_;
    std::copy_n(out.bytes.begin(), num_ranks_, outbox.bytes);
    std::copy_n(out.offset.begin(), num_ranks_, outbox.offset);
  }

  absl::Status ArriveAndWait() {
    header_.ranks[rank_].arrived_call.store(tag_.call, std::memory_order_release);
    // The last to arrive has, through this counter, seen all outboxes; the release word passes that
    // on.
    const uint64_t before = header_.num_arrivals.fetch_add(1, std::memory_order_acq_rel);
    if (before + 1 == tag_.call * static_cast<uint64_t>(num_ranks_)) {
      header_.release_word.fetch_add(2, std::memory_order_acq_rel);
      FutexWakeAll(header_.release_word);
    }
    const Clock::time_point start = Clock::now();
    const WaitOutcome outcome = Wait(start);
    wait_seconds_ += std::chrono::duration<double>(Clock::now() - start).count();
    switch (outcome) {
      case WaitOutcome::kReleased:
        return absl::OkStatus();
      case WaitOutcome::kAborted:
        return PeerAborted();
      case WaitOutcome::kTimedOut:
        break;
    }
    return TimedOut();
  }

  /// A release counts before an abort: then all data is there, whoever left since.
  WaitOutcome Wait(Clock::time_point start) {
    const auto released = static_cast<uint32_t>(tag_.call << 1);
    for (;;) {
      const uint32_t word = header_.release_word.load(std::memory_order_acquire);
      if ((word & ~kAbortBit) == released) return WaitOutcome::kReleased;
      if (word & kAbortBit) return WaitOutcome::kAborted;
      const Clock::duration waited = Clock::now() - start;
      if (waited >= timeout_) return WaitOutcome::kTimedOut;
      if (waited >= spin_time_) {
        FutexWait(header_.release_word, word, timeout_ - waited);
      } else if (waited < kPauseTime) {
        SpinPause();
      } else {
        sched_yield();
      }
    }
  }

  absl::Status Receive(const Segments& in, void* recv) {
    for (int32_t r = 0; r < num_ranks_; ++r) {
      if (r == rank_) continue;
      MOED_ASSIGN_OR_RETURN(const std::byte* data, Sent(r, in.bytes[r]));
      CopyBytes(static_cast<std::byte*>(recv) + in.offset[r], data, in.bytes[r]);
    }
    return absl::OkStatus();
  }

  absl::Status ReceiveParts(std::span<const GatherPart> parts, int64_t total) {
    for (int32_t r = 0; r < num_ranks_; ++r) {
      const std::byte* data = segment_->outbox_data(rank_, tag_.call);
      if (r != rank_) {
        MOED_ASSIGN_OR_RETURN(data, Sent(r, total));
      }
      for (const GatherPart& part : parts) {
        CopyBytes(static_cast<std::byte*>(part.recv) + r * part.bytes, data, part.bytes);
        data += part.bytes;
      }
    }
    return absl::OkStatus();
  }

  /// What `peer` sent to this rank, once all have arrived; it must be `expected` bytes.
  absl::StatusOr<const std::byte*> Sent(int32_t peer, int64_t expected) {
    const ShmOutbox& outbox = segment_->outbox(peer, tag_.call);
    if (outbox.tag != tag_) return OutOfStep(peer, absl::StrCat("is at ", Describe(outbox.tag)));
    const int64_t bytes = outbox.bytes[rank_];
    const int64_t offset = outbox.offset[rank_];
    if (bytes != expected) {
      return OutOfStep(peer, absl::StrCat("sent ", bytes, " bytes, expected ", expected));
    }
    if (offset < 0 || bytes > segment_->max_bytes_per_rank() ||
        offset > segment_->max_bytes_per_rank() - bytes) {
      return OutOfStep(peer, absl::StrCat("put ", bytes, " bytes at ", offset, " of its outbox"));
    }
    return segment_->outbox_data(peer, tag_.call) + offset;
  }

  absl::Status CheckFits(int64_t bytes) {
    if (bytes <= segment_->max_bytes_per_rank()) return absl::OkStatus();
    AbortGroup(AbortReason::kRefused, 0);
    return Fail(absl::InvalidArgumentError(absl::StrCat(
        Here(), ": ", bytes, " bytes to send, expected at most ", segment_->max_bytes_per_rank())));
  }

  absl::Status RefuseSizes() {
    AbortGroup(AbortReason::kRefused, 0);
    return Fail(absl::InvalidArgumentError(absl::StrCat(
        Here(), ": expected ", num_ranks_,
        " sizes each way, none negative, the own entries equal, with a sum below 2^63")));
  }

  absl::Status OutOfStep(int32_t peer, const std::string& what) {
    AbortGroup(AbortReason::kOutOfStep, uint64_t{1} << peer);
    return Fail(absl::InternalError(absl::StrCat(Here(), ": rank ", peer, " ", what)));
  }

  absl::Status TimedOut() {
    uint64_t missing = 0;
    for (int32_t r = 0; r < num_ranks_; ++r) {
      const uint64_t arrived = header_.ranks[r].arrived_call.load(std::memory_order_acquire);
      if (arrived < tag_.call) missing |= uint64_t{1} << r;
    }
    AbortGroup(AbortReason::kTimeout, missing);
    return Fail(absl::DeadlineExceededError(
        absl::StrCat(Here(), ": timed out after ", absl::FormatDuration(absl::FromChrono(timeout_)),
                     " waiting for ", RankList(missing))));
  }

  absl::Status PeerAborted() {
    const ShmAbortRecord& abort = header_.abort;
    return Fail(absl::AbortedError(absl::StrCat(
        Here(), ": rank ", abort.rank, " ", DescribeReason(abort), " at ", Describe(abort.tag))));
  }

  absl::Status Fail(absl::Status status) {
    first_error_ = status;
    return status;
  }

  /// Ends the group with this rank's reason, unless another was first.
  void AbortGroup(AbortReason reason, uint64_t missing_ranks) {
    ShmAbortRecord& abort = header_.abort;
    if (abort.claimed.exchange(1, std::memory_order_acq_rel) != 0) return;
    abort.rank = rank_;
    abort.reason = reason;
    abort.missing_ranks = missing_ranks;
    abort.tag = tag_;
    header_.release_word.fetch_or(kAbortBit, std::memory_order_acq_rel);
    FutexWakeAll(header_.release_word);
  }

  std::string Here() const { return absl::StrCat("rank ", rank_, ", ", Describe(tag_)); }

  std::unique_ptr<ShmSegment> segment_;
  ShmHeader& header_;
  const int32_t rank_;
  const int32_t num_ranks_;
  const std::chrono::nanoseconds timeout_;
  std::chrono::nanoseconds spin_time_{0};
  ShmTag tag_;  // of the current call, or the last one
  absl::Status first_error_;
  double wait_seconds_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Communicator>> CreateShmCommunicator(int segment_fd,
                                                                    const ShmOptions& options) {
  if (options.rank < 0 || options.rank >= options.num_ranks) {
    return absl::InvalidArgumentError(absl::StrCat(
        "joining the exchange group: rank ", options.rank, " of ", options.num_ranks, " ranks"));
  }
  if (options.timeout <= absl::ZeroDuration() || options.timeout > kMaxTimeout) {
    return absl::InvalidArgumentError(
        absl::StrCat("joining the exchange group: timeout ", absl::FormatDuration(options.timeout),
                     ", expected above 0 and at most ", absl::FormatDuration(kMaxTimeout)));
  }
  MOED_ASSIGN_OR_RETURN(std::unique_ptr<ShmSegment> segment,
                        ShmSegment::Map(segment_fd, options.num_ranks, options.max_bytes_per_rank));
  ShmRankState& state = segment->header().ranks[options.rank];
  if (state.attached.exchange(1, std::memory_order_acq_rel) != 0) {
    return absl::AlreadyExistsError(absl::StrCat(
        "joining the exchange group: there has been a rank ", options.rank, " already"));
  }
  return std::make_unique<ShmCommunicator>(std::move(segment), options);
}

}  // namespace moed
