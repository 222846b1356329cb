#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "absl/time/clock.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "tests/server/rpc/rpc_server_fixture.h"

namespace moed {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

DeltaEvent Delta(int32_t index, const std::string& text, int32_t token_id = 1) {
  return {.index = index, .text = text, .tokens = {{.token_id = token_id, .logprob = -0.5f}}};
}

// The detail of the given type in a status, if there is one.
template <typename Detail>
std::optional<Detail> DetailOf(const grpc::Status& status) {
  google::rpc::Status details;
  if (!details.ParseFromString(status.error_details())) return std::nullopt;
  for (const auto& any : details.details()) {
    Detail detail;
    if (any.UnpackTo(&detail)) return detail;
  }
  return std::nullopt;
}

class GenerateTest : public RpcServerFixture {
 protected:
  // A call that is accepted, and its request in the step loop.
  struct Accepted {
    std::unique_ptr<GenerateCall> call;
    FakeStepLoop::Submitted submitted;
    v1::Accepted message;
  };
  Accepted Accept(const v1::GenerateRequest& request) {
    const size_t i = loop_.num_submitted();
    Accepted accepted;
    accepted.call = std::make_unique<GenerateCall>(Connect(), request);
    accepted.submitted = loop_.WaitForRequest(i);
    const auto first = accepted.call->Read();
    EXPECT_TRUE(first.has_value() && first->has_accepted());
    if (first.has_value()) accepted.message = first->accepted();
    return accepted;
  }

  grpc::Status Refusal(const v1::GenerateRequest& request) {
    GenerateCall call(Connect(), request);
    EXPECT_FALSE(call.Read().has_value()) << "a refusal must come before any message";
    return call.Finish();
  }
};

TEST_F(GenerateTest, AStreamIsAcceptedThenDeltasThenFinishedThenDone) {
  StartServer();
  Accepted a = Accept(TextRequest("abc"));
  EXPECT_THAT(a.message.request_id(), StartsWith("req-"));
  EXPECT_EQ(a.message.request_id(), a.submitted.request.id);
  EXPECT_EQ(a.message.num_prompt_tokens(), 3);
  EXPECT_EQ(a.message.seed(), a.submitted.request.sampling.seed);
  RequestSink& sink = *a.submitted.sink;
  EXPECT_TRUE(sink.OnEvent(Delta(0, "hello")));
  const auto delta = a.call->Read();
  ASSERT_TRUE(delta.has_value() && delta->has_delta());
  EXPECT_EQ(delta->delta().text(), "hello");
  EXPECT_EQ(delta->delta().num_tokens(), 1);
  EXPECT_EQ(delta->delta().token_ids_size(), 0);
  EXPECT_TRUE(
      sink.OnEvent(FinishedEvent{.matched = std::string("END"), .num_generated_tokens = 1}));
  EXPECT_TRUE(sink.OnEvent(UsageEvent{.num_prompt_tokens = 3, .num_generated_tokens = 1}));
  const auto finished = a.call->Read();
  ASSERT_TRUE(finished.has_value() && finished->has_finished());
  EXPECT_EQ(finished->finished().reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(finished->finished().stop_string(), "END");
  const auto done = a.call->Read();
  ASSERT_TRUE(done.has_value() && done->has_done());
  EXPECT_EQ(done->done().usage().num_prompt_tokens(), 3);
  EXPECT_FALSE(a.call->Read().has_value());
  EXPECT_TRUE(a.call->Finish().ok());
  EXPECT_EQ(loop_.num_cancelled(), 0u);
}

TEST_F(GenerateTest, TheRequestIdIsInTheInitialMetadataToo) {
  StartServer();
  Accepted a = Accept(TextRequest("abc"));
  const auto& metadata = a.call->context().GetServerInitialMetadata();
  const auto id = metadata.find("x-request-id");
  ASSERT_NE(id, metadata.end());
  EXPECT_EQ(std::string(id->second.data(), id->second.size()), a.message.request_id());
}

TEST_F(GenerateTest, TokenIdsAndLogprobsComeWhenAskedFor) {
  StartServer();
  v1::GenerateRequest request = TextRequest("abc");
  request.mutable_response()->set_return_token_ids(true);
  request.mutable_response()->set_logprobs(1);
  Accepted a = Accept(request);
  DeltaEvent event = Delta(0, "A", 'A' + 1);
  event.tokens[0].top_logprobs = {{.token_id = 'B' + 1, .logprob = -0.25f}};
  EXPECT_TRUE(a.submitted.sink->OnEvent(event));
  const auto message = a.call->Read();
  ASSERT_TRUE(message.has_value());
  const v1::Delta& delta = message->delta();
  ASSERT_EQ(delta.token_ids_size(), 1);
  EXPECT_EQ(delta.token_ids(0), 'A' + 1);
  ASSERT_EQ(delta.logprobs_size(), 1);
  EXPECT_EQ(delta.logprobs(0).token(), "A");
  EXPECT_EQ(delta.logprobs(0).logprob(), -0.5f);
  EXPECT_EQ(delta.logprobs(0).top(0).token(), "B");
}

TEST_F(GenerateTest, AnErrorAfterAcceptanceEndsTheStreamOnceAfterWhatCameBeforeIt) {
  StartServer();
  Accepted a = Accept(TextRequest("abc"));
  EXPECT_TRUE(a.submitted.sink->OnEvent(Delta(0, "par")));
  a.submitted.sink->OnError(absl::UnavailableError("engine 1 died"));
  a.submitted.sink->OnError(absl::InternalError("never seen"));
  EXPECT_TRUE(a.submitted.sink->OnEvent(Delta(0, "late")));  // ignored
  const auto delta = a.call->Read();
  ASSERT_TRUE(delta.has_value());
  EXPECT_EQ(delta->delta().text(), "par");
  EXPECT_FALSE(a.call->Read().has_value());
  const grpc::Status status = a.call->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(status.error_message(), "engine 1 died");
}

TEST_F(GenerateTest, ABadRequestNamesEveryFieldInItsDetails) {
  StartServer();
  v1::GenerateRequest request = TextRequest("abc");
  request.mutable_sampling()->set_top_p(7);
  request.set_priority(1000);
  const grpc::Status status = Refusal(request);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("sampling.top_p is 7"));
  const auto bad = DetailOf<google::rpc::BadRequest>(status);
  ASSERT_TRUE(bad.has_value());
  ASSERT_EQ(bad->field_violations_size(), 2);
  EXPECT_EQ(bad->field_violations(0).field(), "sampling.top_p");
  EXPECT_EQ(bad->field_violations(1).field(), "priority");
  EXPECT_EQ(loop_.num_submitted(), 0u);
}

TEST_F(GenerateTest, ATextOfTooManyTokensIsABadRequest) {
  StartServer();
  const grpc::Status status = Refusal(TextRequest(std::string(100, 'x')));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  const auto bad = DetailOf<google::rpc::BadRequest>(status);
  ASSERT_TRUE(bad.has_value());
  EXPECT_EQ(bad->field_violations(0).field(), "text");
}

TEST_F(GenerateTest, AnotherModelIsNotFound) {
  StartServer();
  v1::GenerateRequest request = TextRequest("abc");
  request.set_model("huge");
  EXPECT_EQ(Refusal(request).error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(GenerateTest, AModelNameThatIsTooLongIsNotRepeated) {
  StartServer();
  v1::GenerateRequest request = TextRequest("abc");
  request.set_model(std::string(100'000, 'm'));
  const grpc::Status status = Refusal(request);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_LT(status.error_message().size(), 200u);
}

TEST_F(GenerateTest, AFullQueueSaysWhenToTryAgain) {
  StartServer();
  loop_.SetRefusal(absl::ResourceExhaustedError("256 requests are waiting"));
  GenerateCall call(Connect(), TextRequest("abc"));
  const grpc::Status status = call.Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  const auto& trailers = call.context().GetServerTrailingMetadata();
  const auto pushback = trailers.find("grpc-retry-pushback-ms");
  ASSERT_NE(pushback, trailers.end());
  EXPECT_EQ(std::string(pushback->second.data(), pushback->second.size()), "200");
  const auto retry = DetailOf<google::rpc::RetryInfo>(status);
  ASSERT_TRUE(retry.has_value());
  EXPECT_EQ(retry->retry_delay().nanos(), 200'000'000);
}

TEST_F(GenerateTest, WhileLoadingItIsUnavailableWithPushback) {
  StartServer();
  loop_.SetRefusal(absl::UnavailableError("the model is loading"));
  GenerateCall call(Connect(), TextRequest("abc"));
  EXPECT_EQ(call.Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(call.context().GetServerTrailingMetadata().count("grpc-retry-pushback-ms"), 1u);
}

TEST_F(GenerateTest, AClientThatCancelsCancelsItsRequestAtOnce) {
  StartServer();
  Accepted a = Accept(TextRequest("abc"));
  a.call->context().TryCancel();
  const auto [id, reason] = loop_.WaitForCancel(0);
  EXPECT_EQ(id, a.message.request_id());
  EXPECT_EQ(reason.code(), absl::StatusCode::kCancelled);
  a.submitted.sink->OnError(reason);
  EXPECT_EQ(a.call->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_EQ(loop_.num_cancelled(), 1u);
}

TEST_F(GenerateTest, ADeadlineGoesIntoTheRequestAndEndsIt) {
  StartServer();
  grpc::ClientContext context;
  const absl::Time deadline = absl::Now() + absl::Milliseconds(200);
  context.set_deadline(absl::ToChronoTime(deadline));
  const auto stub = v1::InferenceService::NewStub(Connect());
  const auto reader = stub->Generate(&context, TextRequest("abc"));
  const auto submitted = loop_.WaitForRequest(0);
  EXPECT_LT(submitted.request.deadline, deadline + absl::Seconds(1));
  EXPECT_GT(submitted.request.deadline, deadline - absl::Seconds(1));
  const auto [id, reason] = loop_.WaitForCancel(0);
  EXPECT_EQ(reason.code(), absl::StatusCode::kDeadlineExceeded);
  v1::GenerateResponse message;
  while (reader->Read(&message)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
}

TEST_F(GenerateTest, ACallWithoutADeadlineHasNone) {
  StartServer();
  EXPECT_EQ(Accept(TextRequest("abc")).submitted.request.deadline, absl::InfiniteFuture());
}

TEST_F(GenerateTest, DeltasForASlowReaderAreMergedNotLost) {
  max_pending_bytes_ = 64 << 20;
  StartServer();
  Accepted a = Accept(TextRequest("abc"));
  std::string sent;
  const std::string piece(1000, 'x');
  constexpr int kNumDeltas = 8000;  // more than the window holds
  for (int i = 0; i < kNumDeltas; ++i) {
    ASSERT_TRUE(a.submitted.sink->OnEvent(Delta(0, piece + std::to_string(i))));
    sent += piece + std::to_string(i);
  }
  ASSERT_TRUE(a.submitted.sink->OnEvent(FinishedEvent{}));
  ASSERT_TRUE(a.submitted.sink->OnEvent(UsageEvent{}));
  std::string received;
  int num_deltas = 0;
  int num_tokens = 0;
  int num_finished = 0;
  int num_done = 0;
  while (const auto message = a.call->Read()) {
    received += message->delta().text();
    num_tokens += message->delta().num_tokens();
    num_deltas += message->has_delta() ? 1 : 0;
    num_finished += message->has_finished() ? 1 : 0;
    num_done += message->has_done() ? 1 : 0;
  }
  EXPECT_TRUE(received == sent);
  EXPECT_EQ(num_tokens, kNumDeltas);
  EXPECT_LT(num_deltas, kNumDeltas);
  EXPECT_EQ(num_finished, 1);
  EXPECT_EQ(num_done, 1);
  EXPECT_TRUE(a.call->Finish().ok());
}

TEST_F(GenerateTest, AReaderThatStopsReadingIsCutOffAndOthersGoOn) {
  max_pending_bytes_ = 100'000;
  StartServer();
  Accepted slow = Accept(TextRequest("slow"));
  Accepted other = Accept(TextRequest("other"));
  bool taken = true;
  for (int i = 0; taken && i < 1000; ++i) {
    taken = slow.submitted.sink->OnEvent(Delta(0, std::string(50'000, 'x')));
  }
  EXPECT_FALSE(taken);
  slow.submitted.sink->OnError(absl::ResourceExhaustedError("too slow"));  // as the step loop does
  EXPECT_TRUE(other.submitted.sink->OnEvent(Delta(0, "quick")));
  const auto delta = other.call->Read();
  ASSERT_TRUE(delta.has_value());
  EXPECT_EQ(delta->delta().text(), "quick");
  EXPECT_FALSE(slow.call->Finish().ok());
}

// Waits for the outcome of the first Generate call.
class OutcomeWaiter final : public RpcObserver {
 public:
  void OnRpcHandled(const RpcOutcome& outcome) override { outcome_.set_value(outcome.code); }
  absl::StatusCode Wait() { return outcome_.get_future().get(); }

 private:
  std::promise<absl::StatusCode> outcome_;
};

TEST_F(GenerateTest, AClientThatLeavesTheRestOfAFinishedStreamUnreadIsCutOff) {
  OutcomeWaiter outcome;
  observer_ = &outcome;
  max_pending_bytes_ = 64 << 20;
  unread_timeout_ = absl::Milliseconds(50);
  StartServer();
  Accepted a = Accept(TextRequest("abc"));
  for (int i = 0; i < 200; ++i) {  // more than the window holds
    ASSERT_TRUE(a.submitted.sink->OnEvent(Delta(0, std::string(50'000, 'x'))));
  }
  ASSERT_TRUE(a.submitted.sink->OnEvent(UsageEvent{}));
  EXPECT_EQ(outcome.Wait(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(a.call->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_EQ(loop_.num_cancelled(), 0u);  // its request had ended
  server_.reset();                       // would hang if the call went on
}

TEST_F(GenerateTest, AClientThatReadsToTheEndInTimeIsNotCutOff) {
  unread_timeout_ = absl::Hours(1);
  StartServer();
  Accepted a = Accept(TextRequest("abc"));
  const std::weak_ptr<RequestSink> sink = a.submitted.sink;
  EXPECT_TRUE(a.submitted.sink->OnEvent(UsageEvent{}));
  EXPECT_TRUE(a.call->Finish().ok());
  a.submitted.sink.reset();
  loop_.ForgetRequests();
  server_.reset();
  while (!sink.expired()) std::this_thread::yield();  // its alarm does not keep it
}

TEST_F(GenerateTest, EventsAfterTheClientIsGoneGoNowhere) {
  StartServer();
  Accepted a = Accept(TextRequest("abc"));
  a.call.reset();  // cancels
  loop_.WaitForCancel(0);
  for (int i = 0; i < 100; ++i) EXPECT_TRUE(a.submitted.sink->OnEvent(Delta(0, "late")));
  a.submitted.sink->OnError(absl::CancelledError("gone"));
}

TEST_F(GenerateTest, AStepLoopThatAnswersBeforeSubmitReturnsIsHeardAfterAccepted) {
  StartServer();
  GenerateCall call(Connect(), TextRequest("abc"));
  const auto submitted = loop_.WaitForRequest(0);
  EXPECT_TRUE(submitted.sink->OnEvent(Delta(0, "early")));  // may come before Accepted is written
  EXPECT_TRUE(submitted.sink->OnEvent(UsageEvent{}));
  EXPECT_TRUE(call.Read()->has_accepted());
  EXPECT_TRUE(call.Read()->has_delta());
  EXPECT_TRUE(call.Read()->has_done());
  EXPECT_TRUE(call.Finish().ok());
}

TEST_F(GenerateTest, ShutdownCancelsWhatIsLeft) {
  StartServer();
  Accepted a = Accept(TextRequest("abc"));
  server_->Shutdown(absl::ZeroDuration());
  loop_.WaitForCancel(0);
  EXPECT_FALSE(a.call->Finish().ok());
}

TEST_F(GenerateTest, ManyCallsAtOnceEachGetTheirOwnStream) {
  StartServer();
  constexpr int kNumCalls = 32;
  const auto channel = Connect();
  std::vector<std::thread> clients;
  for (int i = 0; i < kNumCalls; ++i) {
    clients.emplace_back([&channel, i] {
      GenerateCall call(channel, TextRequest(std::string(static_cast<size_t>(i + 1), 'x')));
      std::string text;
      while (const auto message = call.Read()) text += message->delta().text();
      EXPECT_EQ(text, std::to_string(i + 1) + std::to_string(i + 1));
      EXPECT_TRUE(call.Finish().ok());
    });
  }
  for (int i = 0; i < kNumCalls; ++i) {
    const auto submitted = loop_.WaitForRequest(static_cast<size_t>(i));
    const auto length = std::to_string(submitted.request.prompt_token_ids.size());
    EXPECT_TRUE(submitted.sink->OnEvent(Delta(0, length)));
    EXPECT_TRUE(submitted.sink->OnEvent(Delta(0, length)));
    EXPECT_TRUE(submitted.sink->OnEvent(FinishedEvent{}));
    EXPECT_TRUE(submitted.sink->OnEvent(UsageEvent{}));
  }
  for (std::thread& client : clients) client.join();
}

}  // namespace
}  // namespace moed
