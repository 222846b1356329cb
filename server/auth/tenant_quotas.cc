#include "server/auth/tenant_quotas.h"

#include <algorithm>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "config/base/status_macros.h"

namespace moed {
namespace {

// The payload's name on a status inside the server; on the wire it becomes a google.rpc.RetryInfo.
constexpr char kRetryPayload[] = "moed.retry_delay_ms";
constexpr absl::Duration kMinDelay = absl::Milliseconds(1);
constexpr absl::Duration kMaxDelay = absl::Minutes(10);

absl::Status RetryAfter(absl::Duration delay, const std::string& message) {
  delay = std::clamp(delay, kMinDelay, kMaxDelay);
  absl::Status status = absl::ResourceExhaustedError(
      absl::StrCat(message, "; try again in ", absl::FormatDuration(delay)));
  status.SetPayload(kRetryPayload, absl::Cord(absl::StrCat(absl::ToInt64Milliseconds(
                                       absl::Ceil(delay, absl::Milliseconds(1))))));
  return status;
}

}  // namespace

absl::Duration RetryDelay(const absl::Status& status) {
  const auto payload = status.GetPayload(kRetryPayload);
  int64_t delay_ms = 0;
  if (!payload || !absl::SimpleAtoi(std::string(*payload), &delay_ms)) {
    return absl::ZeroDuration();
  }
  return absl::Milliseconds(delay_ms);
}

void TenantUsage::Bucket::Refill(double per_second, double most, absl::Time now) {
  if (updated == absl::InfinitePast()) {
    left = most;
  } else if (now > updated) {
    left += absl::ToDoubleSeconds(now - updated) * per_second;
  }
  left = std::min(left, most);
  updated = std::max(updated, now);
}

absl::Status TenantUsage::TakeRequest(const TenantLimits& limits, absl::Time now) {
  if (limits.requests_per_second <= 0) return absl::OkStatus();
  absl::MutexLock lock(&mutex_);
  requests_.Refill(limits.requests_per_second, std::max(limits.requests_per_second, 1.0), now);
  if (requests_.left < 1) {
    return RetryAfter(absl::Seconds((1 - requests_.left) / limits.requests_per_second),
                      absl::StrFormat("the tenant's rate of %g requests per second is used up",
                                      limits.requests_per_second));
  }
  requests_.left -= 1;
  return absl::OkStatus();
}

absl::Status TenantUsage::CheckTokens(const TenantLimits& limits, absl::Time now) {
  if (limits.tokens_per_minute <= 0) return absl::OkStatus();
  const double per_second = limits.tokens_per_minute / 60;
  absl::MutexLock lock(&mutex_);
  tokens_.Refill(per_second, limits.tokens_per_minute, now);
  if (tokens_.left > 0) return absl::OkStatus();
  return RetryAfter(absl::Seconds((1 - tokens_.left) / per_second),
                    absl::StrFormat("the tenant's rate of %g tokens per minute is used up",
                                    limits.tokens_per_minute));
}

void TenantUsage::TakeTokens(int64_t num_tokens) {
  absl::MutexLock lock(&mutex_);
  if (tokens_.updated == absl::InfinitePast()) return;  // there was never a limit
  tokens_.left -= static_cast<double>(num_tokens);
}

absl::Status TenantUsage::BeginCall(int32_t max_concurrent) {
  absl::MutexLock lock(&mutex_);
  if (max_concurrent > 0 && num_calls_ >= max_concurrent) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "%d Generate calls of this tenant go on already, which is its limit", num_calls_));
  }
  ++num_calls_;
  return absl::OkStatus();
}

void TenantUsage::EndCall() {
  absl::MutexLock lock(&mutex_);
  --num_calls_;
}

absl::Status TenantQuotas::TakeRequest(const TokenGrant& grant, absl::Time now) {
  if (grant.limits.requests_per_second <= 0) return absl::OkStatus();
  return UsageOf(grant.tenant)->TakeRequest(grant.limits, now);
}

absl::StatusOr<CallTicket> TenantQuotas::BeginCall(const TokenGrant& grant, absl::Time now) {
  std::shared_ptr<TenantUsage> usage = UsageOf(grant.tenant);
  MOED_RETURN_IF_ERROR(usage->CheckTokens(grant.limits, now));
  MOED_RETURN_IF_ERROR(usage->BeginCall(
      grant.limits.max_concurrent > 0 ? grant.limits.max_concurrent : max_concurrent_));
  return CallTicket(std::move(usage));
}

std::shared_ptr<TenantUsage> TenantQuotas::UsageOf(const std::string& tenant) {
  absl::MutexLock lock(&mutex_);
  std::shared_ptr<TenantUsage>& usage = usages_[tenant];
  if (usage == nullptr) usage = std::make_shared<TenantUsage>();
  return usage;
}

}  // namespace moed
