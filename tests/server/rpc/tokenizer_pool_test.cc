#include "server/rpc/tokenizer_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "absl/synchronization/blocking_counter.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"

namespace moed {
namespace {

using ::testing::ElementsAre;

class TokenizerPoolTest : public ::testing::Test {
 protected:
  void Use(const TokenizerPool::Params& params) { pool_ = std::make_unique<TokenizerPool>(params); }
  ~TokenizerPoolTest() override {
    if (!release_.HasBeenNotified()) release_.Notify();
  }

  // Keeps one thread busy until release_, and waits until it is.
  void OccupyThread() {
    absl::Notification running;
    ASSERT_TRUE(pool_
                    ->Post("", 1,
                           [this, &running] {
                             running.Notify();
                             release_.WaitForNotification();
                           })
                    .ok());
    running.WaitForNotification();
  }

  absl::Status Post(const std::string& tenant, int64_t num_bytes = 1) {
    return pool_->Post(tenant, num_bytes, [this, tenant] {
      absl::MutexLock lock(&mutex_);
      order_.push_back(tenant);
    });
  }

  absl::Notification release_;
  absl::Mutex mutex_;
  std::vector<std::string> order_;
  std::unique_ptr<TokenizerPool> pool_;  // last: its threads use the others
};

TEST_F(TokenizerPoolTest, TenantsTakeTurns) {
  Use({.num_threads = 1});
  OccupyThread();
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(Post("many").ok());
  ASSERT_TRUE(Post("one").ok());
  release_.Notify();
  pool_.reset();
  EXPECT_THAT(order_, ElementsAre("many", "one", "many", "many"));
}

TEST_F(TokenizerPoolTest, NoMoreTextsAreWorkedOnAtATimeThanThereAreThreads) {
  Use({.num_threads = 2});
  std::atomic<int> num_running = 0, most = 0;
  for (int i = 0; i < 50; ++i) {
    ASSERT_TRUE(pool_
                    ->Post("", 1,
                           [&] {
                             const int now = ++num_running;
                             int seen = most;
                             while (now > seen && !most.compare_exchange_weak(seen, now)) {
                             }
                             --num_running;
                           })
                    .ok());
  }
  pool_.reset();
  EXPECT_GE(most, 1);
  EXPECT_LE(most, 2);
}

TEST_F(TokenizerPoolTest, WhatWaitsIsBoundedInNumberAndBytes) {
  Use({.num_threads = 1, .max_waiting_texts = 3, .max_waiting_bytes = 100});
  OccupyThread();
  EXPECT_TRUE(Post("", 1000).ok()) << "a single text is never too much";
  EXPECT_EQ(Post("").code(), absl::StatusCode::kResourceExhausted);
  release_.Notify();
}

TEST_F(TokenizerPoolTest, ATenantLeavesRoomForOthers) {
  Use({.num_threads = 1, .max_waiting_texts = 4, .max_waiting_bytes = 100});
  OccupyThread();
  EXPECT_TRUE(Post("a").ok());
  EXPECT_TRUE(Post("a").ok());
  EXPECT_FALSE(Post("a").ok());
  EXPECT_TRUE(Post("b").ok());
  EXPECT_TRUE(Post("c").ok());
  EXPECT_FALSE(Post("d").ok()) << "four wait";
  release_.Notify();
}

}  // namespace
}  // namespace moed
