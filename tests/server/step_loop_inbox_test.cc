#include "server/step_loop_inbox.h"

#include <gtest/gtest.h>

#include <string>

namespace moed {
namespace {

class StepLoopInboxTest : public ::testing::Test {
 protected:
  StepLoopInboxTest() {
    inbox_.Open({.num_blocks = {1000},
                 .block_size = 16,
                 .max_model_len = 1000,
                 .max_tokens_per_step = 100,
                 .max_sequences_per_step = 8,
                 .vocab_size = 100});
  }

  // Why a request is refused; "" when it is taken.
  std::string Submit(const std::string& tenant, int32_t num_tokens = 1) {
    Request request;
    request.id = std::to_string(++last_id_);
    request.tenant = tenant;
    request.prompt_token_ids.assign(num_tokens, 5);
    request.stopping.max_tokens = 1;
    auto refusal = inbox_.Submit(std::move(request), nullptr);
    return refusal ? std::string(refusal->reason) : "";
  }

  int SubmitUntilRefused(const std::string& tenant) {
    int num_taken = 0;
    while (Submit(tenant).empty()) ++num_taken;
    return num_taken;
  }

  StepLoopInbox inbox_{{.max_waiting_requests = 16, .max_waiting_tokens = 100}};
  int last_id_ = 0;
};

TEST_F(StepLoopInboxTest, WithoutTenantsTheWholeQueueIsEverybodys) {
  EXPECT_EQ(SubmitUntilRefused(""), 16);
  EXPECT_EQ(Submit(""), "queue_full");
}

TEST_F(StepLoopInboxTest, ATenantAloneMayFillHalfTheQueueAndOthersStillFindRoom) {
  EXPECT_EQ(SubmitUntilRefused("a"), 8);
  EXPECT_EQ(Submit("a"), "tenant_queue_full");
  EXPECT_EQ(SubmitUntilRefused("b"), 4);
  EXPECT_EQ(SubmitUntilRefused("c"), 2);
  EXPECT_EQ(Submit("d"), "");
  EXPECT_EQ(Submit("e"), "");
  EXPECT_EQ(Submit("f"), "queue_full");
}

TEST_F(StepLoopInboxTest, PromptTokensAreBoundedTogetherAndByTenant) {
  EXPECT_EQ(Submit("a", 45), "");
  EXPECT_EQ(Submit("a", 11), "tenant_queue_full") << "45 + 11 is more than the 55 left";
  EXPECT_EQ(Submit("b", 55), "");
  EXPECT_EQ(Submit("c", 1), "queue_full");
}

TEST_F(StepLoopInboxTest, ASinglePromptIsNeverTooMuchForTheQueue) {
  EXPECT_EQ(Submit("a", 500), "");
  EXPECT_EQ(Submit("b", 1), "queue_full");
}

TEST_F(StepLoopInboxTest, WhatTheLoopHasTakenCountsUntilItSaysThatItWaitsNoLonger) {
  EXPECT_EQ(SubmitUntilRefused("a"), 8);
  inbox_.Take();
  EXPECT_EQ(Submit("a"), "tenant_queue_full");
  WaitingLoad waiting;
  waiting.Add("a", {.num_requests = 2, .num_tokens = 2});
  inbox_.SetLoad(8, waiting);
  EXPECT_EQ(SubmitUntilRefused("a"), 6);
  inbox_.SetLoad(8, {});
  EXPECT_EQ(Submit("a"), "") << "what was submitted since counts: 7 of 8";
  EXPECT_EQ(inbox_.num_requests(), 15);
}

}  // namespace
}  // namespace moed
