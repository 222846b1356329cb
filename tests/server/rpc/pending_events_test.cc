#include "server/rpc/pending_events.h"

#include <gtest/gtest.h>

#include <atomic>
#include <string>

namespace moed {
namespace {

DeltaEvent Delta(int32_t index, std::string text, int num_tokens = 1) {
  return {.index = index,
          .text = std::move(text),
          .tokens = std::vector<GeneratedToken>(static_cast<size_t>(num_tokens))};
}

TEST(PendingEventsTest, EventsComeOutInOrder) {
  PendingEvents pending(10000);
  EXPECT_TRUE(pending.Push(Delta(0, "a")));
  EXPECT_TRUE(pending.Push(FinishedEvent{.index = 0}));
  EXPECT_TRUE(pending.Push(UsageEvent{}));
  EXPECT_TRUE(std::holds_alternative<DeltaEvent>(*pending.Pop()));
  EXPECT_TRUE(std::holds_alternative<FinishedEvent>(*pending.Pop()));
  EXPECT_TRUE(std::holds_alternative<UsageEvent>(*pending.Pop()));
  EXPECT_FALSE(pending.Pop().has_value());
  EXPECT_EQ(pending.num_bytes(), 0);
}

TEST(PendingEventsTest, WaitingDeltasOfOneSequenceAreMerged) {
  PendingEvents pending(10000);
  ASSERT_TRUE(pending.Push(Delta(0, "one ")));
  ASSERT_TRUE(pending.Push(Delta(1, "other")));
  ASSERT_TRUE(pending.Push(Delta(0, "two ", 2)));
  ASSERT_TRUE(pending.Push(Delta(0, "three")));
  const auto first = std::get<DeltaEvent>(*pending.Pop());
  EXPECT_EQ(first.text, "one two three");
  EXPECT_EQ(first.tokens.size(), 4u);
  EXPECT_EQ(std::get<DeltaEvent>(*pending.Pop()).text, "other");
  EXPECT_TRUE(pending.empty());
  EXPECT_EQ(pending.num_bytes(), 0);
}

TEST(PendingEventsTest, AMergedDeltaStaysBelowWhatClientsTakeByDefault) {
  PendingEvents pending(64 << 20);
  const std::string text(100 << 10, 'x');
  size_t num_bytes_in = 0;
  for (int i = 0; i < 50; ++i) {
    ASSERT_TRUE(pending.Push(Delta(0, text)));
    num_bytes_in += text.size();
  }
  size_t num_bytes_out = 0;
  while (auto event = pending.Pop()) {
    const auto& delta = std::get<DeltaEvent>(*event);
    EXPECT_LE(delta.text.size(), 4u << 20);
    num_bytes_out += delta.text.size();
  }
  EXPECT_EQ(num_bytes_out, num_bytes_in);
}

TEST(PendingEventsTest, RefusesMoreOncePastItsBoundAndTakesAgainAfterwards) {
  PendingEvents pending(10000);
  EXPECT_TRUE(pending.Push(Delta(0, std::string(20000, 'x'))));  // one event may pass the bound
  EXPECT_FALSE(pending.Push(Delta(0, "y")));
  EXPECT_FALSE(pending.Push(UsageEvent{}));
  EXPECT_EQ(std::get<DeltaEvent>(*pending.Pop()).text.size(), 20000u);
  EXPECT_TRUE(pending.empty());
  EXPECT_TRUE(pending.Push(Delta(0, "y")));
}

TEST(PendingEventsTest, LogprobsCountTowardsTheBound) {
  PendingEvents pending(10000);
  DeltaEvent delta = Delta(0, "");
  delta.tokens[0].top_logprobs.resize(20);
  int num_taken = 0;
  while (pending.Push(delta)) ++num_taken;
  EXPECT_LT(num_taken, 10000 / 160);
  EXPECT_GT(num_taken, 10);
  pending.Clear();
  EXPECT_EQ(pending.num_bytes(), 0);
  EXPECT_TRUE(pending.Push(delta));
}

TEST(PendingEventsTest, WhatWaitsInSeveralIsAddedUp) {
  std::atomic<int64_t> sum = 0;
  PendingEvents one(10000, &sum), other(10000, &sum);
  ASSERT_TRUE(one.Push(Delta(0, "a")));
  ASSERT_TRUE(one.Push(Delta(0, "merged")));
  ASSERT_TRUE(other.Push(Delta(0, std::string(20000, 'x'))));
  EXPECT_FALSE(other.Push(Delta(0, "refused")));
  EXPECT_EQ(sum, one.num_bytes() + other.num_bytes());
  EXPECT_GT(sum, 20000);
  one.Pop();
  EXPECT_EQ(sum, other.num_bytes());
  other.Clear();
  EXPECT_EQ(sum, 0);
}

}  // namespace
}  // namespace moed
