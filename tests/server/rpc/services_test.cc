#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <memory>
#include <string>

#include "absl/time/clock.h"
#include "config/token_hash.h"
#include "moed/v1/admin.grpc.pb.h"
#include "server/rpc/rpc_methods.h"
#include "tests/server/rpc/health_client.h"
#include "tests/server/rpc/rpc_server_fixture.h"

namespace moed {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class ServicesTest : public RpcServerFixture {
 protected:
  void Start(const TokenAuthenticator* authenticator = nullptr) {
    StartServer(authenticator);
    inference_ = v1::InferenceService::NewStub(Connect());
    admin_ = v1::AdminService::NewStub(Connect());
  }

  std::unique_ptr<v1::InferenceService::Stub> inference_;
  std::unique_ptr<v1::AdminService::Stub> admin_;
};

TEST_F(ServicesTest, TextBecomesTokensAndTokensBecomeText) {
  Start();
  v1::TokenizeRequest tokenize;
  tokenize.set_text("hi!");
  tokenize.set_return_pieces(true);
  v1::TokenizeResponse tokens;
  grpc::ClientContext first;
  ASSERT_TRUE(inference_->Tokenize(&first, tokenize, &tokens).ok());
  EXPECT_THAT(tokens.token_ids(), ElementsAre('h' + 1, 'i' + 1, '!' + 1));
  EXPECT_THAT(tokens.pieces(), ElementsAre("h", "i", "!"));
  v1::DetokenizeRequest detokenize;
  *detokenize.mutable_token_ids() = tokens.token_ids();
  v1::DetokenizeResponse text;
  grpc::ClientContext second;
  ASSERT_TRUE(inference_->Detokenize(&second, detokenize, &text).ok());
  EXPECT_EQ(text.text(), "hi!");
}

TEST_F(ServicesTest, DetokenizingAnIdThatDoesNotExistIsABadRequest) {
  Start();
  v1::DetokenizeRequest request;
  request.add_token_ids(1 << 30);
  v1::DetokenizeResponse response;
  grpc::ClientContext context;
  const grpc::Status status = inference_->Detokenize(&context, request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("token_ids[0]"));
}

TEST_F(ServicesTest, TheModelDescribesItself) {
  Start();
  v1::GetModelResponse model;
  grpc::ClientContext context;
  ASSERT_TRUE(inference_->GetModel(&context, {}, &model).ok());
  EXPECT_EQ(model.name(), "tiny");
  EXPECT_EQ(model.vocab_size(), 300);
  EXPECT_EQ(model.max_model_len(), 100);
  EXPECT_EQ(model.num_experts(), 4);
  EXPECT_THAT(model.eos_token_ids(), ElementsAre(0));
  EXPECT_FALSE(model.has_bos_token_id());
}

TEST_F(ServicesTest, StatusShowsTheQueueAndEveryRank) {
  Start();
  ServerStats stats;
  stats.state = ServingState::kServing;
  stats.num_waiting_sequences = 5;
  stats.steps.num_steps = 4;
  stats.steps.step_seconds = 2;
  stats.ranks = {{.num_blocks = 10, .num_free_blocks = 4}, {.num_blocks = 11}};
  loop_.SetStats(stats);
  v1::GetStatusResponse status;
  grpc::ClientContext context;
  ASSERT_TRUE(admin_->GetStatus(&context, {}, &status).ok());
  EXPECT_EQ(status.state(), v1::SERVING_STATE_SERVING);
  EXPECT_EQ(status.num_waiting_sequences(), 5);
  EXPECT_EQ(status.mean_step_seconds(), 0.5);
  ASSERT_EQ(status.ranks_size(), 2);
  EXPECT_EQ(status.ranks(0).pid(), 4711);
  EXPECT_TRUE(status.ranks(0).up());
  EXPECT_EQ(status.ranks(0).num_free_blocks(), 4);
  EXPECT_EQ(status.ranks(1).num_blocks(), 11);
}

TEST_F(ServicesTest, ExpertsShowLoadPlacementAndBalance) {
  Start();
  ServerStats stats;
  stats.tokens_per_expert = {30, 0, 10, 0};  // ranks 0 and 1 hold two experts each
  stats.ranks = {{.num_expert_rows = 30}, {.num_expert_rows = 10}};
  loop_.SetStats(stats);
  v1::GetExpertsRequest request;
  request.set_reset(true);
  v1::GetExpertsResponse experts;
  grpc::ClientContext context;
  ASSERT_TRUE(admin_->GetExperts(&context, request, &experts).ok());
  EXPECT_THAT(experts.rows_per_rank(), ElementsAre(30, 10));
  EXPECT_DOUBLE_EQ(experts.balancedness(), 20.0 / 30);
  ASSERT_EQ(experts.layers_size(), 1);
  EXPECT_EQ(experts.layers(0).layer(), 1);  // layer 0 is dense
  EXPECT_THAT(experts.layers(0).tokens_per_expert(), ElementsAre(30, 0, 10, 0));
  EXPECT_DOUBLE_EQ(experts.layers(0).balancedness(), 20.0 / 30);
  ASSERT_EQ(experts.layers(0).slots_size(), 4);
  EXPECT_EQ(experts.layers(0).slots(3).expert_id(), 3);
  EXPECT_EQ(experts.layers(0).slots(3).rank(), 1);
  EXPECT_TRUE(loop_.stats().tokens_per_expert.empty());
}

TEST_F(ServicesTest, ExpertsBeforeTheFirstStepAreAllZero) {
  Start();
  v1::GetExpertsResponse experts;
  grpc::ClientContext context;
  ASSERT_TRUE(admin_->GetExperts(&context, {}, &experts).ok());
  ASSERT_EQ(experts.layers_size(), 1);
  EXPECT_THAT(experts.layers(0).tokens_per_expert(), ElementsAre(0, 0, 0, 0));
  EXPECT_EQ(experts.layers(0).balancedness(), 0);
}

TEST_F(ServicesTest, DrainStopsNewRequestsAndReportsUntilNoneIsLeft) {
  Start();
  server_->SetServingState(ServingState::kServing);
  loop_.SetNumRequests(2);
  grpc::ClientContext context;
  const auto reader = admin_->Drain(&context, {});
  v1::DrainResponse response;
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.num_requests_left(), 2);
  EXPECT_FALSE(response.drained());
  EXPECT_TRUE(loop_.draining());
  EXPECT_EQ(CheckHealth(Connect(), ""), Health::kNotServing);
  loop_.SetNumRequests(1);
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.num_requests_left(), 1);
  loop_.SetNumRequests(0);
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_TRUE(response.drained());
  EXPECT_FALSE(reader->Read(&response));
  EXPECT_TRUE(reader->Finish().ok());
}

TEST_F(ServicesTest, DrainWaitsForAClientThatStillReads) {
  max_pending_bytes_ = 64 << 20;
  Start();
  GenerateCall call(Connect(), TextRequest("abc"));
  const std::shared_ptr<RequestSink> sink = loop_.WaitForRequest(0).sink;
  for (int i = 0; i < 200; ++i) {  // more than the window holds
    ASSERT_TRUE(sink->OnEvent(DeltaEvent{.text = std::string(50'000, 'x')}));
  }
  ASSERT_TRUE(sink->OnEvent(UsageEvent{}));
  loop_.SetNumRequests(0);  // the request has ended
  grpc::ClientContext context;
  const auto reader = admin_->Drain(&context, {});
  v1::DrainResponse response;
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.num_requests_left(), 1);
  EXPECT_FALSE(response.drained());
  EXPECT_EQ(server_->num_requests_left(), 1);
  EXPECT_TRUE(call.Finish().ok());
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_TRUE(response.drained());
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(server_->num_requests_left(), 0);
}

TEST_F(ServicesTest, DrainDoesNotWaitForAHealthWatch) {
  Start();
  HealthWatch watch(Connect());
  EXPECT_EQ(watch.Next(), Health::kNotServing);
  grpc::ClientContext context;
  const auto reader = admin_->Drain(&context, {});
  v1::DrainResponse response;
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_TRUE(response.drained());
  EXPECT_TRUE(reader->Finish().ok());
}

TEST_F(ServicesTest, DrainEndsWhenTimeIsUpAndSaysThatItIsNotDrained) {
  Start();
  loop_.SetNumRequests(3);
  v1::DrainRequest request;
  request.set_timeout_seconds(0.05);
  grpc::ClientContext context;
  const auto reader = admin_->Drain(&context, request);
  v1::DrainResponse response;
  while (reader->Read(&response)) {
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(response.num_requests_left(), 3);
  EXPECT_FALSE(response.drained());
}

TEST_F(ServicesTest, ADrainWithoutEndEndsWithItsClient) {
  Start();
  loop_.SetNumRequests(3);
  grpc::ClientContext context;
  const auto reader = admin_->Drain(&context, {});
  v1::DrainResponse response;
  ASSERT_TRUE(reader->Read(&response));
  context.TryCancel();
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  server_.reset();  // would hang if the call went on
}

TEST_F(ServicesTest, ADrainTimeoutThatIsNoNumberIsABadRequest) {
  Start();
  v1::DrainRequest request;
  request.set_timeout_seconds(-1);
  grpc::ClientContext context;
  const auto reader = admin_->Drain(&context, request);
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_FALSE(loop_.draining());
}

TEST_F(ServicesTest, HealthFollowsTheServingState) {
  Start();
  const auto channel = Connect();
  for (const char* service : {"", "moed.v1.InferenceService", "moed.v1.AdminService"}) {
    server_->SetServingState(ServingState::kLoading);
    EXPECT_EQ(CheckHealth(channel, service), Health::kNotServing) << service;
    server_->SetServingState(ServingState::kServing);
    EXPECT_EQ(CheckHealth(channel, service), Health::kServing) << service;
    server_->SetServingState(ServingState::kRecovering);
    EXPECT_EQ(CheckHealth(channel, service), Health::kNotServing) << service;
  }
  EXPECT_EQ(CheckHealth(channel, "no.such.Service"), Health::kNotFound);
}

class AuthenticatedServicesTest : public ServicesTest {
 protected:
  void SetUp() override {
    const std::string path = directory_ + "/tokens";
    std::ofstream(path) << "token somebody sha256:" << ToHex(HashToken("open-sesame")) << "\n";
    auto authenticator = TokenAuthenticator::Load(path, RpcMethodNames());
    ASSERT_TRUE(authenticator.ok()) << authenticator.status();
    authenticator_ = *std::move(authenticator);
    Start(authenticator_.get());
  }

  std::unique_ptr<TokenAuthenticator> authenticator_;
};

TEST_F(AuthenticatedServicesTest, EveryMethodWantsTheToken) {
  grpc::ClientContext contexts[6];
  v1::TokenizeResponse tokens;
  v1::DetokenizeResponse text;
  v1::GetModelResponse model;
  v1::GetStatusResponse status;
  v1::GetExpertsResponse experts;
  const auto expected = grpc::StatusCode::UNAUTHENTICATED;
  EXPECT_EQ(inference_->Tokenize(&contexts[0], {}, &tokens).error_code(), expected);
  EXPECT_EQ(inference_->Detokenize(&contexts[1], {}, &text).error_code(), expected);
  EXPECT_EQ(inference_->GetModel(&contexts[2], {}, &model).error_code(), expected);
  EXPECT_EQ(admin_->GetStatus(&contexts[3], {}, &status).error_code(), expected);
  EXPECT_EQ(admin_->GetExperts(&contexts[4], {}, &experts).error_code(), expected);
  EXPECT_EQ(admin_->Drain(&contexts[5], {})->Finish().error_code(), expected);
  EXPECT_FALSE(loop_.draining());
  GenerateCall call(Connect(), TextRequest("abc"));
  EXPECT_EQ(call.Finish().error_code(), expected);
  EXPECT_EQ(loop_.num_submitted(), 0u);
}

TEST_F(AuthenticatedServicesTest, TheTokenOpensTheDoorAndAWrongOneDoesNot) {
  v1::GetModelResponse model;
  grpc::ClientContext good;
  good.AddMetadata("authorization", "Bearer open-sesame");
  EXPECT_TRUE(inference_->GetModel(&good, {}, &model).ok());
  grpc::ClientContext bad;
  bad.AddMetadata("authorization", "Bearer open-sesamf");
  EXPECT_EQ(inference_->GetModel(&bad, {}, &model).error_code(), grpc::StatusCode::UNAUTHENTICATED);
}

TEST_F(AuthenticatedServicesTest, HealthNeedsNoToken) {
  server_->SetServingState(ServingState::kServing);
  EXPECT_EQ(CheckHealth(Connect(), ""), Health::kServing);
}

TEST_F(ServicesTest, TwoServersCannotShareAnAddress) {
  Start();
  RpcServer::Params params = {.listen = "127.0.0.1:0",
                              .model = model_,
                              .tokenizer = *tokenizer_,
                              .placement = placement_,
                              .loop = loop_,
                              .ranks = [] { return std::vector<RankView>(); }};
  auto first = RpcServer::Start(params);
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_THAT((*first)->address(), ::testing::StartsWith("127.0.0.1:"));
  EXPECT_NE((*first)->address(), "127.0.0.1:0");
  params.listen = (*first)->address();
  const absl::Status second = RpcServer::Start(params).status();
  EXPECT_EQ(second.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.message()), HasSubstr(params.listen));
}

}  // namespace
}  // namespace moed
