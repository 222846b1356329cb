#include "server/rpc/drain_reactor.h"

#include <utility>

#include "absl/time/clock.h"

namespace moed {
namespace {

constexpr absl::Duration kPollInterval = absl::Milliseconds(20);

}  // namespace

DrainReactor::DrainReactor(std::function<int32_t()> num_requests_left, absl::Time deadline)
    : num_requests_left_(std::move(num_requests_left)), deadline_(deadline) {
  Check();
}

void DrainReactor::Check() {
  const int32_t num_left = num_requests_left_();
  last_ = num_left == 0 || absl::Now() >= deadline_;
  if (cancelled_) return Finish(grpc::Status::CANCELLED);
  if (!last_ && num_left == num_reported_) return CheckLater();
  num_reported_ = num_left;
  message_.set_num_requests_left(num_left);
  message_.set_drained(num_left == 0);
  StartWrite(&message_);
}

void DrainReactor::OnWriteDone(bool ok) {
  if (!ok || cancelled_) return Finish(grpc::Status::CANCELLED);
  if (last_) return Finish(grpc::Status::OK);
  CheckLater();
}

void DrainReactor::CheckLater() {
  alarm_.Set(absl::ToChronoTime(absl::Now() + kPollInterval), [this](bool) { Check(); });
}

void DrainReactor::OnCancel() { cancelled_ = true; }

}  // namespace moed
