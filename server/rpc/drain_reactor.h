#pragma once

#include <grpcpp/alarm.h>
#include <grpcpp/support/server_callback.h>

#include <atomic>
#include <cstdint>
#include <functional>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "moed/v1/admin.pb.h"

namespace moed {

/// One Drain call: reports how many requests are left whenever that changes, until none is or time
/// is up.
///
/// Owns itself until OnDone. Its steps follow one another (an alarm, then perhaps a write, then an
/// alarm), so no two of them run at a time; only OnCancel may come in between.
class DrainReactor final : public grpc::ServerWriteReactor<v1::DrainResponse> {
 public:
  /// Starts at once; what `num_requests_left` refers to must outlive the call.
  DrainReactor(std::function<int32_t()> num_requests_left, absl::Time deadline);

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override { delete this; }

 private:
  void Check();
  void CheckLater();

  const std::function<int32_t()> num_requests_left_;
  const absl::Time deadline_;
  int32_t num_reported_ = -1;
  bool last_ = false;  // message_ is the last one
  std::atomic<bool> cancelled_ = false;
  v1::DrainResponse message_;
  grpc::Alarm alarm_;
};

/// A call that is refused: finishes with `status` and deletes itself.
class RefusedDrain final : public grpc::ServerWriteReactor<v1::DrainResponse> {
 public:
  explicit RefusedDrain(grpc::Status status) { Finish(std::move(status)); }
  void OnDone() override { delete this; }
};

}  // namespace moed
