#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/auth/token_table.h"

namespace moed {

/// What one tenant has used of its limits. Shared by its calls; any thread.
class TenantUsage {
 public:
  /// Takes one request off the rate, or says RESOURCE_EXHAUSTED with a retry delay (see
  /// RetryDelay).
  absl::Status TakeRequest(const TenantLimits& limits, absl::Time now) ABSL_LOCKS_EXCLUDED(mutex_);

  /// Whether a call that will use tokens may begin: RESOURCE_EXHAUSTED, with a retry delay, while
  /// the tenant is in debt. What a call uses is known only afterwards, so it is taken by TakeTokens
  /// and may exceed what is left; the next call then waits until the debt is paid.
  absl::Status CheckTokens(const TenantLimits& limits, absl::Time now) ABSL_LOCKS_EXCLUDED(mutex_);
  void TakeTokens(int64_t num_tokens) ABSL_LOCKS_EXCLUDED(mutex_);

  /// Begins a call if fewer than `max_concurrent` go on (0 = no bound); else RESOURCE_EXHAUSTED.
  absl::Status BeginCall(int32_t max_concurrent) ABSL_LOCKS_EXCLUDED(mutex_);
  void EndCall() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  // What is left of a rate: grows with time up to one period's worth, and may be negative.
  struct Bucket {
    double left = 0;
    absl::Time updated = absl::InfinitePast();

    void Refill(double per_second, double most, absl::Time now);
  };

  absl::Mutex mutex_;
  Bucket requests_ ABSL_GUARDED_BY(mutex_);
  Bucket tokens_ ABSL_GUARDED_BY(mutex_);
  int32_t num_calls_ ABSL_GUARDED_BY(mutex_) = 0;
};

/// One call's part of a tenant's usage: counts as a concurrent call until it is destroyed. Moves,
/// does not copy.
class CallTicket {
 public:
  CallTicket() = default;
  explicit CallTicket(std::shared_ptr<TenantUsage> usage) : usage_(std::move(usage)) {}
  CallTicket(CallTicket&& other) noexcept : usage_(std::move(other.usage_)) {}
  CallTicket& operator=(CallTicket&& other) noexcept {
    std::swap(usage_, other.usage_);
    return *this;
  }
  ~CallTicket() {
    if (usage_ != nullptr) usage_->EndCall();
  }

  /// Any thread.
  void TakeTokens(int64_t num_tokens) const {
    if (usage_ != nullptr) usage_->TakeTokens(num_tokens);
  }

 private:
  std::shared_ptr<TenantUsage> usage_;  // shared with the tenant's other calls
};

/// The usage of all tenants. Owned by the RpcServer; any thread.
class TenantQuotas {
 public:
  /// `max_concurrent` bounds the calls of a tenant whose limits do not.
  explicit TenantQuotas(int32_t max_concurrent) : max_concurrent_(max_concurrent) {}

  /// Counts a request of any kind.
  absl::Status TakeRequest(const TokenGrant& grant, absl::Time now);

  /// Begins a call that uses tokens, unless the tenant has too many or is in debt.
  absl::StatusOr<CallTicket> BeginCall(const TokenGrant& grant, absl::Time now);

 private:
  std::shared_ptr<TenantUsage> UsageOf(const std::string& tenant) ABSL_LOCKS_EXCLUDED(mutex_);

  const int32_t max_concurrent_;
  absl::Mutex mutex_;
  // By tenant. Names come from token files only, so there are few.
  absl::flat_hash_map<std::string, std::shared_ptr<TenantUsage>> usages_ ABSL_GUARDED_BY(mutex_);
};

/// How long the caller of a refused call should wait, or zero where the status does not say.
absl::Duration RetryDelay(const absl::Status& status);

}  // namespace moed
