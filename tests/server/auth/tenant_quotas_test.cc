#include "server/auth/tenant_quotas.h"

#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace moed {
namespace {

class TenantQuotasTest : public ::testing::Test {
 protected:
  static TokenGrant Grant(const std::string& tenant, const TenantLimits& limits) {
    return {.tenant = tenant, .limits = limits};
  }

  TenantQuotas quotas_{/*max_concurrent=*/2};
  absl::Time now_ = absl::FromUnixSeconds(1000);
};

TEST_F(TenantQuotasTest, ARateLetsOneSecondsWorthThroughAtOnceAndThenItsRate) {
  const TokenGrant grant = Grant("a", {.requests_per_second = 4});
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(quotas_.TakeRequest(grant, now_).ok()) << i;
  const absl::Status refused = quotas_.TakeRequest(grant, now_);
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(RetryDelay(refused), absl::Milliseconds(250));
  now_ += absl::Milliseconds(251);
  EXPECT_TRUE(quotas_.TakeRequest(grant, now_).ok());
  EXPECT_FALSE(quotas_.TakeRequest(grant, now_).ok());
}

TEST_F(TenantQuotasTest, ARateBelowOnePerSecondStillLetsTheFirstThrough) {
  const TokenGrant grant = Grant("a", {.requests_per_second = 0.1});
  EXPECT_TRUE(quotas_.TakeRequest(grant, now_).ok());
  EXPECT_EQ(RetryDelay(quotas_.TakeRequest(grant, now_)), absl::Seconds(10));
}

TEST_F(TenantQuotasTest, OneTenantsRateIsNotAnothers) {
  const TenantLimits limits = {.requests_per_second = 1};
  EXPECT_TRUE(quotas_.TakeRequest(Grant("a", limits), now_).ok());
  EXPECT_FALSE(quotas_.TakeRequest(Grant("a", limits), now_).ok());
  EXPECT_TRUE(quotas_.TakeRequest(Grant("b", limits), now_).ok());
}

TEST_F(TenantQuotasTest, CallsAtATimeAreBoundedAndGivenBack) {
  const TokenGrant one = Grant("a", {.max_concurrent = 1});
  std::optional<CallTicket> ticket = *quotas_.BeginCall(one, now_);
  EXPECT_EQ(quotas_.BeginCall(one, now_).status().code(), absl::StatusCode::kResourceExhausted);
  ticket.reset();
  EXPECT_TRUE(quotas_.BeginCall(one, now_).ok());
}

TEST_F(TenantQuotasTest, WithoutALimitOfItsOwnATenantHasThatOfTheServer) {
  const TokenGrant grant = Grant("", {});
  std::vector<CallTicket> tickets;
  tickets.push_back(*quotas_.BeginCall(grant, now_));
  tickets.push_back(*quotas_.BeginCall(grant, now_));
  EXPECT_FALSE(quotas_.BeginCall(grant, now_).ok());
}

TEST_F(TenantQuotasTest, TokensBeyondTheRateAreADebtThatTimePays) {
  const TokenGrant grant = Grant("a", {.tokens_per_minute = 60});
  {
    const CallTicket ticket = *quotas_.BeginCall(grant, now_);
    ticket.TakeTokens(50);
    ticket.TakeTokens(30);  // 20 more than a minute's worth
  }
  const absl::Status refused = quotas_.BeginCall(grant, now_).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(RetryDelay(refused), absl::Seconds(21));
  EXPECT_FALSE(quotas_.BeginCall(grant, now_ + absl::Seconds(19)).ok());
  EXPECT_TRUE(quotas_.BeginCall(grant, now_ + absl::Seconds(21)).ok());
}

TEST_F(TenantQuotasTest, ALimitThatComesLaterStartsWithoutADebt) {
  const CallTicket ticket = *quotas_.BeginCall(Grant("a", {}), now_);
  ticket.TakeTokens(1'000'000);
  EXPECT_TRUE(quotas_.BeginCall(Grant("a", {.tokens_per_minute = 60}), now_).ok());
}

TEST_F(TenantQuotasTest, OtherStatusesNameNoDelay) {
  EXPECT_EQ(RetryDelay(absl::ResourceExhaustedError("full")), absl::ZeroDuration());
  EXPECT_EQ(RetryDelay(absl::OkStatus()), absl::ZeroDuration());
}

}  // namespace
}  // namespace moed
