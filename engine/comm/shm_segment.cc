#include "engine/comm/shm_segment.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "config/base/checked_math.h"
#include "config/base/status_macros.h"
#include "engine/comm/shm_communicator.h"

namespace moed {
namespace {

constexpr uint64_t kMagic = 0x6d6f656473686d31;  // "moedshm1"
constexpr uint32_t kVersion = 1;
constexpr int64_t kPageBytes = 4096;
constexpr int64_t kMaxOutboxBytes = int64_t{1} << 40;

constexpr int64_t RoundUpToPage(int64_t bytes) {
  return (bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
}

constexpr int64_t HeaderBytes() { return RoundUpToPage(sizeof(ShmHeader)); }

/// Bytes of one outbox, its head included; the argument is at most kMaxOutboxBytes.
constexpr int64_t OutboxBytes(int64_t max_bytes_per_rank) {
  return RoundUpToPage(static_cast<int64_t>(sizeof(ShmOutbox)) + max_bytes_per_rank);
}

std::string_view Name(CollectiveKind kind) {
  switch (kind) {
    case CollectiveKind::kNone:
      return "no call";
    case CollectiveKind::kAllGatherV:
      return "AllGatherV";
    case CollectiveKind::kAllToAllV:
      return "AllToAllV";
    case CollectiveKind::kBarrier:
      return "Barrier";
    case CollectiveKind::kAllGather:
      return "AllGather";
  }
  return "unknown";
}

absl::Status ErrnoStatus(std::string_view what) {
  return absl::ErrnoToStatus(errno, absl::string_view(what.data(), what.size()));
}

absl::Status NotASegment(std::string_view seen) {
  return absl::InvalidArgumentError(
      absl::StrCat("mapping the exchange segment: the file descriptor is not one of this program: ",
                   absl::string_view(seen.data(), seen.size())));
}

/// The size cannot change after this check: a sealed file can neither shrink (which would turn
/// accesses into SIGBUS) nor grow.
absl::Status CheckFile(int fd, int64_t expected_bytes) {
  const int seals = fcntl(fd, F_GET_SEALS);
  constexpr int kWanted = F_SEAL_SHRINK | F_SEAL_GROW;
  if (seals < 0 || (seals & kWanted) != kWanted) return NotASegment("its size is not sealed");
  struct stat info;
  if (fstat(fd, &info) != 0) return ErrnoStatus("reading the size of the exchange segment");
  if (info.st_size != expected_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("mapping the exchange segment: it has ",
                                                   info.st_size, " bytes, expected ",
                                                   expected_bytes));
  }
  return absl::OkStatus();
}

absl::Status CheckHeader(const ShmHeader& header, int32_t num_ranks, int64_t max_bytes_per_rank) {
  if (header.magic != kMagic) return NotASegment("wrong magic number");
  if (header.version != kVersion) {
    return absl::InvalidArgumentError(absl::StrCat("mapping the exchange segment: version ",
                                                   header.version, ", expected ", kVersion));
  }
  if (header.num_ranks != num_ranks || header.max_bytes_per_rank != max_bytes_per_rank) {
    return absl::InvalidArgumentError(
        absl::StrCat("mapping the exchange segment: it is for ", header.num_ranks, " ranks of ",
                     header.max_bytes_per_rank, " bytes, expected ", num_ranks, " ranks of ",
                     max_bytes_per_rank, " bytes"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::byte*> MapShared(int fd, int64_t bytes) {
  void* base = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (base == MAP_FAILED) {
    return ErrnoStatus(absl::StrCat("mapping ", bytes, " bytes of exchange segment"));
  }
  return static_cast<std::byte*>(base);
}

absl::Status WriteHeader(int fd, int32_t num_ranks, int64_t max_bytes_per_rank, int64_t bytes) {
  MOED_ASSIGN_OR_RETURN(std::byte * base, MapShared(fd, HeaderBytes()));
  auto* header = new (base) ShmHeader();
  header->version = kVersion;
  header->num_ranks = num_ranks;
  header->max_bytes_per_rank = max_bytes_per_rank;
  header->segment_bytes = bytes;
  header->magic = kMagic;
  munmap(base, static_cast<size_t>(HeaderBytes()));
  return absl::OkStatus();
}

}  // namespace

ShmTag MakeShmTag(CollectiveKind kind, uint64_t call, const CollectiveTag& tag) {
  ShmTag out = {.call = call, .step_id = tag.step_id, .layer = tag.layer, .kind = kind};
  std::memcpy(out.phase, tag.phase.data(), std::min(tag.phase.size(), sizeof(out.phase)));
  return out;
}

std::string Describe(const ShmTag& tag) {
  const absl::string_view phase(tag.phase, strnlen(tag.phase, sizeof(tag.phase)));
  return absl::StrCat("step ", tag.step_id, ", layer ", tag.layer, ", ", phase, " (",
                      std::string(Name(tag.kind)), ", call ", tag.call, ")");
}

absl::StatusOr<int64_t> ShmSegmentBytes(int32_t num_ranks, int64_t max_bytes_per_rank) {
  if (num_ranks < 1 || num_ranks > kMaxShmRanks) {
    return absl::InvalidArgumentError(absl::StrCat("sizing the exchange segment: ", num_ranks,
                                                   " ranks, expected 1 to ", kMaxShmRanks));
  }
  if (max_bytes_per_rank < 0 || max_bytes_per_rank > kMaxOutboxBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("sizing the exchange segment: ", max_bytes_per_rank,
                     " bytes per rank, expected 0 to ", kMaxOutboxBytes));
  }
  const std::optional<uint64_t> outboxes =
      CheckedMul(2ull * num_ranks, OutboxBytes(max_bytes_per_rank));
  const std::optional<uint64_t> total = CheckedAdd(HeaderBytes(), outboxes.value_or(UINT64_MAX));
  if (!total || *total > static_cast<uint64_t>(INT64_MAX)) {
    return absl::InvalidArgumentError("sizing the exchange segment: more than 2^63 bytes");
  }
  return static_cast<int64_t>(*total);
}

absl::StatusOr<UniqueFd> CreateShmSegment(int32_t num_ranks, int64_t max_bytes_per_rank) {
  MOED_ASSIGN_OR_RETURN(const int64_t bytes, ShmSegmentBytes(num_ranks, max_bytes_per_rank));
  UniqueFd fd(memfd_create("moed-exchange", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd.valid()) return ErrnoStatus("creating the exchange segment");
  if (ftruncate(fd.get(), bytes) != 0) {
    return ErrnoStatus(absl::StrCat("sizing the exchange segment to ", bytes, " bytes"));
  }
  if (fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return ErrnoStatus("sealing the size of the exchange segment");
  }
  MOED_RETURN_IF_ERROR(WriteHeader(fd.get(), num_ranks, max_bytes_per_rank, bytes));
  return fd;
}

absl::StatusOr<std::unique_ptr<ShmSegment>> ShmSegment::Map(int fd, int32_t num_ranks,
                                                            int64_t max_bytes_per_rank) {
  MOED_ASSIGN_OR_RETURN(const int64_t bytes, ShmSegmentBytes(num_ranks, max_bytes_per_rank));
  MOED_RETURN_IF_ERROR(CheckFile(fd, bytes));
  MOED_ASSIGN_OR_RETURN(std::byte * base, MapShared(fd, bytes));
  std::unique_ptr<ShmSegment> segment(
      new ShmSegment(base, static_cast<size_t>(bytes), max_bytes_per_rank));
  MOED_RETURN_IF_ERROR(CheckHeader(segment->header(), num_ranks, max_bytes_per_rank));
  return segment;
}

ShmSegment::~ShmSegment() { munmap(base_, size_bytes_); }

ShmOutbox& ShmSegment::outbox(int32_t rank, uint64_t call) const {
  const int64_t index = 2 * int64_t{rank} + static_cast<int64_t>(call % 2);
  return *reinterpret_cast<ShmOutbox*>(base_ + HeaderBytes() +
                                       index * OutboxBytes(max_bytes_per_rank_));
}

std::byte* ShmSegment::outbox_data(int32_t rank, uint64_t call) const {
  return reinterpret_cast<std::byte*>(&outbox(rank, call)) + sizeof(ShmOutbox);
}

}  // namespace moed
