#include "tests/gpu/device_communicator.h"

#include <cuda_runtime.h>

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "config/base/status_macros.h"

namespace moed {

struct DeviceMeetingPoint::State {
  std::mutex mutex;
  std::condition_variable changed;
  int32_t num_present = 0;
  uint64_t num_meetings = 0;
  bool gave_up = false;
};

DeviceMeetingPoint::DeviceMeetingPoint(int32_t num_ranks)
    : offers_(num_ranks), state_(std::make_unique<State>()) {}

DeviceMeetingPoint::~DeviceMeetingPoint() = default;

bool DeviceMeetingPoint::Meet() {
  constexpr std::chrono::seconds kTimeout(120);
  std::unique_lock<std::mutex> lock(state_->mutex);
  const uint64_t meeting = state_->num_meetings;
  if (++state_->num_present == num_ranks()) {
    state_->num_present = 0;
    ++state_->num_meetings;
    state_->changed.notify_all();
  }
  const bool came = state_->changed.wait_for(
      lock, kTimeout, [&] { return state_->num_meetings != meeting || state_->gave_up; });
  if (!came) state_->gave_up = true;
  state_->changed.notify_all();
  return !state_->gave_up;
}

void DeviceMeetingPoint::GiveUp() {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->gave_up = true;
  state_->changed.notify_all();
}

namespace {

class DeviceCommunicator final : public Communicator {
 public:
  DeviceCommunicator(DeviceMeetingPoint& point, int32_t rank) : point_(point), rank_(rank) {}
  ~DeviceCommunicator() override { point_.GiveUp(); }

  int32_t rank() const override { return rank_; }
  int32_t num_ranks() const override { return point_.num_ranks(); }

  absl::Status AllGatherV(const void* send, std::span<const int64_t> bytes_per_rank, void* recv,
                          const CollectiveTag& tag) override {
    MOED_RETURN_IF_ERROR(Offer({.base = send}, tag));
    char* to = static_cast<char*>(recv);
    for (int32_t r = 0; r < num_ranks(); ++r) {
      MOED_RETURN_IF_ERROR(Copy(to, point_.offer(r).base, bytes_per_rank[r], tag));
      to += bytes_per_rank[r];
    }
    return EndReading(tag);
  }

  absl::Status AllGather(std::span<const GatherPart> parts, const CollectiveTag& tag) override {
    for (const GatherPart& part : parts) {
      const std::vector<int64_t> bytes(num_ranks(), part.bytes);
      MOED_RETURN_IF_ERROR(AllGatherV(part.send, bytes, part.recv, tag));
    }
    return absl::OkStatus();
  }

  absl::Status AllToAllV(const void* send, std::span<const int64_t> send_bytes, void* recv,
                         std::span<const int64_t> recv_bytes, const CollectiveTag& tag) override {
    DeviceMeetingPoint::Offer offer{.base = send, .begin_bytes = {0}};
    for (const int64_t bytes : send_bytes) {
      offer.begin_bytes.push_back(offer.begin_bytes.back() + bytes);
    }
    MOED_RETURN_IF_ERROR(Offer(std::move(offer), tag));
    char* to = static_cast<char*>(recv);
    for (int32_t r = 0; r < num_ranks(); ++r) {
      const DeviceMeetingPoint::Offer& from = point_.offer(r);
      if (from.begin_bytes[rank_ + 1] - from.begin_bytes[rank_] != recv_bytes[r]) {
        return absl::InternalError(absl::StrCat("rank ", rank_, " expects ", recv_bytes[r],
                                                " bytes that rank ", r, " does not send"));
      }
      MOED_RETURN_IF_ERROR(Copy(to, static_cast<const char*>(from.base) + from.begin_bytes[rank_],
                                recv_bytes[r], tag));
      to += recv_bytes[r];
    }
    return EndReading(tag);
  }

  absl::Status Barrier(const CollectiveTag& tag) override { return Meet(tag); }
  absl::Status Finish(const CollectiveTag& tag) override { return WaitForDevice(tag); }
  double wait_seconds() const override { return 0; }

 private:
  /// What the ops before have written is there when the others read it.
  absl::Status Offer(DeviceMeetingPoint::Offer offer, const CollectiveTag& tag) {
    MOED_RETURN_IF_ERROR(WaitForDevice(tag));
    point_.offer(rank_) = std::move(offer);
    return Meet(tag);
  }

  absl::Status EndReading(const CollectiveTag& tag) {
    MOED_RETURN_IF_ERROR(WaitForDevice(tag));
    return Meet(tag);
  }

  absl::Status Meet(const CollectiveTag& tag) {
    if (point_.Meet()) return absl::OkStatus();
    return absl::AbortedError(absl::StrCat(Place(tag), "a rank is missing"));
  }

  std::string Place(const CollectiveTag& tag) const {
    return absl::StrCat("rank ", rank_, ", step ", tag.step_id, ", layer ", tag.layer, ", ",
                        std::string(tag.phase), ": ");
  }

  absl::Status Copy(void* to, const void* from, int64_t bytes, const CollectiveTag& tag) {
    if (bytes == 0) return absl::OkStatus();
    return ToStatus(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice),
                    tag);
  }

  absl::Status WaitForDevice(const CollectiveTag& tag) {
    return ToStatus(cudaDeviceSynchronize(), tag);
  }

  absl::Status ToStatus(cudaError_t error, const CollectiveTag& tag) const {
    if (error == cudaSuccess) return absl::OkStatus();
    return absl::InternalError(absl::StrCat(Place(tag), cudaGetErrorString(error)));
  }

  DeviceMeetingPoint& point_;
  const int32_t rank_;
};

}  // namespace

std::unique_ptr<Communicator> CreateDeviceCommunicator(DeviceMeetingPoint& meeting_point,
                                                       int32_t rank) {
  return std::make_unique<DeviceCommunicator>(meeting_point, rank);
}

}  // namespace moed
