#include "client/commands.h"

#include <gmock/gmock.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

#include "absl/synchronization/notification.h"
#include "client/interrupt_watcher.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "moed/v1/admin.grpc.pb.h"
#include "moed/v1/inference.grpc.pb.h"

namespace moed {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

/// Before gRPC or anything else starts a thread.
const bool kInterruptsBlocked = (BlockInterrupts(), true);

grpc::Status BadRequest() {
  google::rpc::BadRequest bad_request;
  auto* violation = bad_request.add_field_violations();
  violation->set_field("sampling.top_p");
  violation->set_description("2 is not in (0, 1]");
  google::rpc::Status details;
  details.add_details()->PackFrom(bad_request);
  return {grpc::StatusCode::INVALID_ARGUMENT, "1 field is wrong", details.SerializeAsString()};
}

/// Answers what each test needs; the last request is kept.
class FakeServer final : public v1::InferenceService::Service,
                         public v1::AdminService::Service,
                         public grpc::health::v1::Health::Service {
 public:
  FakeServer() {
    EXPECT_NE(::mkdtemp(directory_.data()), nullptr);
    grpc::ServerBuilder builder;
    builder.AddListeningPort(address(), grpc::InsecureServerCredentials());
    builder.RegisterService(static_cast<v1::InferenceService::Service*>(this));
    builder.RegisterService(static_cast<v1::AdminService::Service*>(this));
    builder.RegisterService(static_cast<grpc::health::v1::Health::Service*>(this));
    server_ = builder.BuildAndStart();
  }
  ~FakeServer() override {
    server_->Shutdown(std::chrono::system_clock::now());
    ::unlink((directory_ + "/socket").c_str());
    ::rmdir(directory_.c_str());
  }

  std::string address() const { return "unix:" + directory_ + "/socket"; }

  grpc::Status Generate(grpc::ServerContext* context, const v1::GenerateRequest* request,
                        grpc::ServerWriter<v1::GenerateResponse>* writer) override {
    const auto& metadata = context->client_metadata();
    if (const auto token = metadata.find("authorization"); token != metadata.end()) {
      authorization.assign(token->second.data(), token->second.size());
    }
    if (request->sampling().top_p() > 1) return BadRequest();
    v1::GenerateResponse event;
    event.mutable_accepted()->set_seed(7);
    writer->Write(event);
    event.mutable_delta()->set_text("text of " + request->text());
    writer->Write(event);
    if (request->text() == "for ever") {
      while (!context->IsCancelled()) writer->Write(event);
      cancelled.Notify();
      return grpc::Status::CANCELLED;
    }
    if (request->text() == "lost") {
      return {grpc::StatusCode::UNAVAILABLE, "rank 1 was killed"};
    }
    event.mutable_finished()->set_reason(v1::FINISH_REASON_LENGTH);
    writer->Write(event);
    event.mutable_done()->mutable_usage()->set_num_generated_tokens(4);
    writer->Write(event);
    return grpc::Status::OK;
  }

  grpc::Status Tokenize(grpc::ServerContext*, const v1::TokenizeRequest* request,
                        v1::TokenizeResponse* response) override {
    for (const char byte : request->text()) {
      response->add_token_ids(static_cast<unsigned char>(byte));
      if (request->return_pieces()) response->add_pieces(std::string(1, byte));
    }
    return grpc::Status::OK;
  }

  grpc::Status Detokenize(grpc::ServerContext*, const v1::DetokenizeRequest* request,
                          v1::DetokenizeResponse* response) override {
    for (const int32_t id : request->token_ids()) {
      response->mutable_text()->push_back(static_cast<char>(id));
    }
    return grpc::Status::OK;
  }

  grpc::Status GetStatus(grpc::ServerContext*, const v1::GetStatusRequest*,
                         v1::GetStatusResponse* response) override {
    response->set_model("tales");
    response->set_num_steps(int64_t{1} << 40);
    return grpc::Status::OK;
  }

  grpc::Status Drain(grpc::ServerContext*, const v1::DrainRequest* request,
                     grpc::ServerWriter<v1::DrainResponse>* writer) override {
    v1::DrainResponse response;
    response.set_num_requests_left(2);
    writer->Write(response);
    if (request->timeout_seconds() == 1) return grpc::Status::OK;
    response.set_num_requests_left(0);
    response.set_drained(true);
    writer->Write(response);
    return grpc::Status::OK;
  }

  grpc::Status Check(grpc::ServerContext*, const grpc::health::v1::HealthCheckRequest* request,
                     grpc::health::v1::HealthCheckResponse* response) override {
    using Response = grpc::health::v1::HealthCheckResponse;
    response->set_status(request->service().empty() ? Response::SERVING : Response::NOT_SERVING);
    return grpc::Status::OK;
  }

  absl::Notification cancelled;
  std::string authorization;

 private:
  std::string directory_ = "/tmp/moedctl-XXXXXX";
  std::unique_ptr<grpc::Server> server_;
};

struct Outcome {
  int exit_code = 0;
  std::string out;
  std::string err;
};

class CommandsTest : public ::testing::Test {
 protected:
  CommandLine Line(const std::string& command) const {
    CommandLine line{.command = command};
    line.connection.server = server_.address();
    return line;
  }

  Outcome Run(const CommandLine& line, const std::string& input = "") {
    const auto connection = Connection::Create(line.connection);
    EXPECT_TRUE(connection.ok()) << connection.status();
    std::ostringstream out, err;
    const int exit_code = RunCommand(line, input, **connection, {.out = out, .err = err});
    return {exit_code, out.str(), err.str()};
  }

  FakeServer server_;
};

TEST_F(CommandsTest, GenerateShowsTheText) {
  const Outcome outcome = Run(Line("generate"), "käse");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(outcome.out, "text of käse\n");
  EXPECT_EQ(outcome.err, "");
}

TEST_F(CommandsTest, GenerateShowsUsageBesideTheText) {
  CommandLine line = Line("generate");
  line.generate.usage = true;
  EXPECT_THAT(Run(line, "x").err, HasSubstr("4 generated"));
}

TEST_F(CommandsTest, GenerateMakesOneJsonObject) {
  CommandLine line = Line("generate");
  line.json = true;
  const Outcome outcome = Run(line, "x");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  const nlohmann::json json = nlohmann::json::parse(outcome.out, nullptr, false);
  ASSERT_TRUE(json.is_object()) << outcome.out;
  EXPECT_EQ(json["sequences"][0]["text"], "text of x");
  EXPECT_EQ(json["sequences"][0]["finish_reason"], "length");
  EXPECT_EQ(json["seed"], 7);
}

TEST_F(CommandsTest, FieldsThatTheServerRefusesAreNamed) {
  CommandLine line = Line("generate");
  line.generate.top_p = 2;
  const Outcome outcome = Run(line, "x");
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_EQ(outcome.out, "");
  EXPECT_THAT(outcome.err, AllOf(StartsWith("moedctl: generate: unix:"),
                                 HasSubstr("INVALID_ARGUMENT: 1 field is wrong\n"
                                           "  sampling.top_p: 2 is not in (0, 1]\n")));
}

TEST_F(CommandsTest, AnErrorAfterSomeTextKeepsTheText) {
  const Outcome outcome = Run(Line("generate"), "lost");
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_EQ(outcome.out, "text of lost\n");
  EXPECT_THAT(outcome.err, HasSubstr("UNAVAILABLE: rank 1 was killed"));
}

TEST_F(CommandsTest, AnInterruptCancelsTheCallAndExitsWith130) {
  const CommandLine line = Line("generate");
  const auto connection = Connection::Create(line.connection);
  ASSERT_TRUE(connection.ok());
  const auto watcher = InterruptWatcher::Create([&] { (*connection)->Interrupt(); });
  ASSERT_TRUE(watcher.ok()) << watcher.status();
  std::ostringstream out, err;
  ASSERT_EQ(::kill(::getpid(), SIGINT), 0);
  EXPECT_EQ(RunCommand(line, "for ever", **connection, {.out = out, .err = err}), 130);
  EXPECT_EQ(err.str(), "");
}

TEST_F(CommandsTest, CancellingMidStreamReachesTheServer) {
  const CommandLine line = Line("generate");
  const auto connection = Connection::Create(line.connection);
  ASSERT_TRUE(connection.ok());
  std::ofstream full("/dev/full");  // every write fails, as to a reader that has gone
  std::ostringstream err;
  EXPECT_EQ(RunCommand(line, "for ever", **connection, {.out = full, .err = err}), 1);
  EXPECT_THAT(err.str(), HasSubstr("writing the output failed"));
  server_.cancelled.WaitForNotification();
}

TEST_F(CommandsTest, ADeadlineEndsTheCall) {
  CommandLine line = Line("generate");
  line.connection.timeout_s = 0.2;
  const Outcome outcome = Run(line, "for ever");
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("DEADLINE_EXCEEDED"));
}

TEST_F(CommandsTest, TheTokenTravelsAsABearer) {
  std::string path = "/tmp/moedctl-token-XXXXXX";
  ::close(::mkstemp(path.data()));
  std::ofstream(path) << "secret\n";
  CommandLine line = Line("generate");
  line.connection.token_file = path;
  Run(line, "x");
  ::unlink(path.c_str());
  EXPECT_EQ(server_.authorization, "Bearer secret");
}

TEST_F(CommandsTest, TokenizeAndDetokenizeAreEachOthersInverse) {
  EXPECT_EQ(Run(Line("tokenize"), "ab").out, "97 98\n");
  CommandLine line = Line("tokenize");
  line.tokenize.pieces = true;
  EXPECT_EQ(Run(line, "a").out, "      97  \"a\"\n");
  line = Line("detokenize");
  line.detokenize.token_ids = {97, 98};
  EXPECT_EQ(Run(line).out, "ab\n");
}

TEST_F(CommandsTest, StatusIsATableOrJson) {
  EXPECT_THAT(Run(Line("status")).out, HasSubstr("tales"));
  CommandLine line = Line("status");
  line.json = true;
  const nlohmann::json json = nlohmann::json::parse(Run(line).out, nullptr, false);
  EXPECT_EQ(json["num_steps"], int64_t{1} << 40);
  EXPECT_EQ(json["state"], "SERVING_STATE_UNSPECIFIED");
}

TEST_F(CommandsTest, DrainShowsProgressAndFailsWhenRequestsAreLeft) {
  Outcome outcome = Run(Line("drain"));
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_EQ(outcome.out, "2 requests left\ndrained\n");
  CommandLine line = Line("drain");
  line.drain.drain_timeout_s = 1;
  outcome = Run(line);
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("2 requests left"));
}

TEST_F(CommandsTest, HealthIsTheExitCode) {
  Outcome outcome = Run(Line("health"));
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_EQ(outcome.out, "SERVING\n");
  CommandLine line = Line("health");
  line.health.service = "other";
  outcome = Run(line);
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_EQ(outcome.out, "NOT_SERVING\n");
}

TEST_F(CommandsTest, AServerThatIsNotThereIsOneClearLine) {
  CommandLine line = Line("status");
  line.connection.server = "unix:/tmp/moed-nobody-listens-here";
  const Outcome outcome = Run(line);
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_THAT(outcome.err,
              StartsWith("moedctl: status: unix:/tmp/moed-nobody-listens-here: UNAVAILABLE: "));
  EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1);
}

}  // namespace
}  // namespace moed
