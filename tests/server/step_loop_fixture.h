#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "server/metrics/metrics_sink.h"
#include "server/step_loop.h"
#include "tests/fakes/fake_engine_group.h"
#include "tests/fakes/test_tokenizer.h"

namespace moed {

constexpr int32_t kVocab = 100;
constexpr int32_t kEos = 99;
constexpr int32_t kMaxModelLen = 64;

// Records one request's events.
class TestSink : public RequestSink {
 public:
  bool OnEvent(RequestEvent event) override {
    if (on_event_) on_event_();
    absl::MutexLock lock(&mutex_);
    EXPECT_FALSE(is_over_) << "an event after the end";
    if (num_events_++ >= max_events_) return false;
    if (auto* delta = std::get_if<DeltaEvent>(&event)) {
      text_[delta->index] += delta->text;
      for (const GeneratedToken& token : delta->tokens) {
        tokens_[delta->index].push_back(token.token_id);
      }
    } else if (auto* finished = std::get_if<FinishedEvent>(&event)) {
      EXPECT_TRUE(finished_.emplace(finished->index, *finished).second) << "finished twice";
    } else {
      usage_ = std::get<UsageEvent>(event);
      is_over_ = true;
    }
    return true;
  }
  void OnError(const absl::Status& status) override {
    absl::MutexLock lock(&mutex_);
    EXPECT_FALSE(is_over_) << "an error after the end";
    status_ = status;
    is_over_ = true;
  }

  // Called before every event is taken, from the loop's thread.
  void SetHook(std::function<void()> hook) { on_event_ = std::move(hook); }
  void RefuseAfter(int num_events) { max_events_ = num_events; }

  absl::Status AwaitEnd() const {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(&is_over_));
    return status_;
  }
  void AwaitToken() const {
    const auto has_token = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return !tokens_.empty(); };
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(&has_token));
  }
  // After the end only.
  std::vector<int32_t> tokens(int32_t index = 0) const {
    absl::MutexLock lock(&mutex_);
    const auto it = tokens_.find(index);
    return it == tokens_.end() ? std::vector<int32_t>() : it->second;
  }
  std::string text(int32_t index = 0) const {
    absl::MutexLock lock(&mutex_);
    const auto it = text_.find(index);
    return it == text_.end() ? "" : it->second;
  }
  std::map<int32_t, FinishedEvent> finished() const {
    absl::MutexLock lock(&mutex_);
    return finished_;
  }
  UsageEvent usage() const {
    absl::MutexLock lock(&mutex_);
    return usage_;
  }

 private:
  std::function<void()> on_event_;
  int max_events_ = 1 << 30;
  mutable absl::Mutex mutex_;
  bool is_over_ ABSL_GUARDED_BY(mutex_) = false;
  int num_events_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  std::map<int32_t, std::vector<int32_t>> tokens_ ABSL_GUARDED_BY(mutex_);
  std::map<int32_t, std::string> text_ ABSL_GUARDED_BY(mutex_);
  std::map<int32_t, FinishedEvent> finished_ ABSL_GUARDED_BY(mutex_);
  UsageEvent usage_ ABSL_GUARDED_BY(mutex_);
};

// Records what is reported.
class TestMetrics : public MetricsSink {
 public:
  void OnStep(const StepOutcome& outcome) override {
    absl::MutexLock lock(&mutex_);
    int64_t num_counted = 0;
    for (const int64_t tokens : outcome.tokens_per_expert) num_counted += tokens;
    int64_t num_routed = 0;
    for (const StepResult& result : *outcome.results) {
      for (const int32_t tokens : result.tokens_per_expert) num_routed += tokens;
    }
    EXPECT_EQ(num_counted, num_routed);
    num_tokens_ += outcome.num_tokens;
    num_intervals_ += static_cast<int>(outcome.inter_token_seconds.size());
  }
  void OnRequestEnd(const RequestOutcome& outcome) override {
    absl::MutexLock lock(&mutex_);
    ++results_[std::string(outcome.result)];
  }
  void OnRejected(std::string_view reason) override {
    absl::MutexLock lock(&mutex_);
    rejections_.emplace_back(reason);
  }
  void OnStateChange(ServingState state) override {
    absl::MutexLock lock(&mutex_);
    states_.push_back(state);
  }

  // Blocks until `state` was entered `count` times in all.
  void AwaitState(ServingState state, int64_t count = 1) const {
    const auto reached = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
      return std::ranges::count(states_, state) >= count;
    };
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(&reached));
  }
  std::vector<ServingState> states() const {
    absl::MutexLock lock(&mutex_);
    return states_;
  }
  std::vector<std::string> rejections() const {
    absl::MutexLock lock(&mutex_);
    return rejections_;
  }
  std::map<std::string, int> results() const {
    absl::MutexLock lock(&mutex_);
    return results_;
  }
  int num_intervals() const {
    absl::MutexLock lock(&mutex_);
    return num_intervals_;
  }
  int num_tokens() const {
    absl::MutexLock lock(&mutex_);
    return num_tokens_;
  }

 private:
  mutable absl::Mutex mutex_;
  std::vector<ServingState> states_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> rejections_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, int> results_ ABSL_GUARDED_BY(mutex_);
  int num_intervals_ ABSL_GUARDED_BY(mutex_) = 0;
  int num_tokens_ ABSL_GUARDED_BY(mutex_) = 0;
};

inline Request MakeRequest(std::string id, int32_t num_prompt, int32_t max_tokens) {
  Request request;
  request.id = std::move(id);
  for (int32_t i = 0; i < num_prompt; ++i) request.prompt_token_ids.push_back(i);
  request.sampling.seed = 11;
  request.stopping.max_tokens = max_tokens;
  request.stopping.ignore_eos = true;
  request.arrival = absl::Now();
  return request;
}

inline std::vector<int32_t> Expected(const Request& request, int32_t index = 0) {
  std::vector<int32_t> tokens = request.prompt_token_ids, output;
  for (int32_t i = 0; i < request.stopping.max_tokens; ++i) {
    output.push_back(FakeSample(tokens,
                                {.params = request.sampling,
                                 .sequence_index = static_cast<uint32_t>(index),
                                 .position = static_cast<int64_t>(tokens.size())},
                                kVocab));
    tokens.push_back(output.back());
  }
  return output;
}

inline std::string Words(const std::vector<int32_t>& tokens) {
  std::string text;
  for (const int32_t token : tokens) {
    if (token != kEos) absl::StrAppend(&text, "w", token, " ");
  }
  return text;
}

class StepLoopTest : public ::testing::Test {
 protected:
  StepLoopTest() : tokenizer_(MakeWordTokenizer(kVocab)) {
    model_.vocab_size = kVocab;
    model_.eos_token_ids = {kEos};
    options_.max_model_len = kMaxModelLen;
    options_.restart_backoff = absl::Milliseconds(1);
  }
  ~StepLoopTest() override {
    loop_.reset();
    if (engines_) {
      EXPECT_THAT(engines_->violations(), ::testing::IsEmpty());
    }
  }

  void Create() {
    engines_ = std::make_unique<FakeEngineGroup>(engine_options_);
    loop_ = StepLoop::Create({.model = model_,
                              .tokenizer = *tokenizer_,
                              .placement = ExpertPlacement::Linear(engine_options_.num_moe_layers,
                                                                   engine_options_.num_experts,
                                                                   engine_options_.num_ranks),
                              .engines = *engines_,
                              .metrics = &metrics_},
                             options_);
  }
  void StartServing() {
    if (!loop_) Create();
    loop_->Start();
    metrics_.AwaitState(ServingState::kServing);
  }

  std::shared_ptr<TestSink> Submit(const Request& request) {
    auto sink = std::make_shared<TestSink>();
    const absl::Status status = loop_->Submit(request, sink);
    EXPECT_TRUE(status.ok()) << status;
    return sink;
  }
  absl::StatusCode SubmitCode(const Request& request) {
    return loop_->Submit(request, std::make_shared<TestSink>()).code();
  }
  // Blocks until everything has ended and the loop has told so.
  void AwaitIdle() {
    while (loop_->num_requests() > 0) std::this_thread::yield();
  }

  // Runs `while_blocked` while the loop waits inside the first event of a new request.
  std::shared_ptr<TestSink> SubmitAndBlock(const Request& request,
                                           const std::function<void()>& while_blocked) {
    auto sink = std::make_shared<TestSink>();
    auto entered = std::make_shared<absl::Notification>();
    auto leave = std::make_shared<absl::Notification>();
    sink->SetHook([entered, leave, is_first = true]() mutable {
      if (!std::exchange(is_first, false)) return;
      entered->Notify();
      leave->WaitForNotification();
    });
    EXPECT_TRUE(loop_->Submit(request, sink).ok());
    entered->WaitForNotification();
    while_blocked();
    leave->Notify();
    return sink;
  }

  ModelConfig model_;
  std::unique_ptr<Tokenizer> tokenizer_;
  FakeEngineOptions engine_options_;
  StepLoopOptions options_;
  TestMetrics metrics_;
  std::unique_ptr<FakeEngineGroup> engines_;
  std::unique_ptr<StepLoop> loop_;
};

}  // namespace moed
