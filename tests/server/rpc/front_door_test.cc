// Who gets in where: every RPC of every service that is linked into the server, from the
// descriptors of its protos, against every way of not being entitled to call it.
#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor_database.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <regex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "config/token_hash.h"
#include "server/auth/certificate_store.h"
#include "server/rpc/rpc_methods.h"
#include "tests/server/auth/test_certificates.h"
#include "tests/server/rpc/raw_call.h"
#include "tests/server/rpc/rpc_server_fixture.h"

namespace moed {
namespace {

using grpc::StatusCode;
using ::testing::AnyOf;
using ::testing::Eq;

enum class Access {
  kInference,  // a token of any tenant, unless it lists other methods
  kAdmin,      // a token that lists it
  kOpen,       // no token: probes have none
  kNotServed,  // not on this port
};

// A new RPC needs a line here.
const std::map<std::string, Access>& Entries() {
  static const auto* entries = new std::map<std::string, Access>{
      {"moed.v1.InferenceService/Generate", Access::kInference},
      {"moed.v1.InferenceService/Tokenize", Access::kInference},
      {"moed.v1.InferenceService/Detokenize", Access::kInference},
      {"moed.v1.InferenceService/GetModel", Access::kInference},
      {"moed.v1.AdminService/GetStatus", Access::kAdmin},
      {"moed.v1.AdminService/GetExperts", Access::kAdmin},
      {"moed.v1.AdminService/Drain", Access::kAdmin},
      {"grpc.health.v1.Health/Check", Access::kOpen},
      {"grpc.health.v1.Health/Watch", Access::kOpen},
      {"grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Access::kNotServed},
      {"moed.engine.v1.EngineService/Session", Access::kNotServed},
  };
  return *entries;
}

// The RPCs of all services whose descriptors are linked into this program.
std::set<std::string> LinkedMethods() {
  const auto* pool = google::protobuf::DescriptorPool::generated_pool();
  std::vector<std::string> files;
  google::protobuf::DescriptorPool::internal_generated_database()->FindAllFileNames(&files);
  std::set<std::string> methods;
  for (const std::string& file : files) {
    const auto* descriptor = pool->FindFileByName(file);
    for (int s = 0; s < descriptor->service_count(); ++s) {
      const auto* service = descriptor->service(s);
      for (int m = 0; m < service->method_count(); ++m) {
        methods.insert(absl::StrCat(service->full_name(), "/", service->method(m)->name()));
      }
    }
  }
  return methods;
}

// The RPCs of all services of the project's protos, read as text: those that are not linked too.
std::set<std::string> WrittenMethods() {
  const std::regex line_of_interest(R"(^(package ([\w.]+);|service (\w+) |  rpc (\w+)\().*)");
  std::set<std::string> methods;
  for (const auto& entry :
       std::filesystem::recursive_directory_iterator(MOED_SOURCE_DIR "/proto")) {
    if (entry.path().extension() != ".proto") continue;
    std::ifstream file(entry.path());
    std::string package, service;
    for (std::string line; std::getline(file, line);) {
      std::smatch match;
      if (!std::regex_match(line, match, line_of_interest)) continue;
      if (match[2].matched) package = match[2];
      if (match[3].matched) service = match[3];
      if (match[4].matched) {
        methods.insert(absl::StrCat(package, ".", service, "/", match[4].str()));
      }
    }
  }
  return methods;
}

std::string Line(const std::string& tenant, const std::string& token, const std::string& methods) {
  return absl::StrCat("token ", tenant, " sha256:", ToHex(HashToken(token)), " methods=", methods,
                      "\n");
}

std::string TokenWithout(const std::string& method) { return "all-but-" + method; }

// A server on a TCP port with mutual TLS and tokens.
class FrontDoorTest : public RpcServerFixture {
 protected:
  FrontDoorTest() {
    WriteTokens();
    Write("ca.crt", ca_.certificate_pem());
    WritePair(ca_.Issue("server"));
  }

  void Write(const std::string& name, const std::string& text) {
    std::ofstream(directory_ + "/" + name) << text;
  }
  void WritePair(const PemPair& pair) {
    Write("tls.crt", pair.certificate);
    Write("tls.key", pair.key);
  }

  void WriteTokens() {
    std::string text = Line("user", "user-token", "inference") +
                       Line("operator", "operator-token", "admin") +
                       Line("both", "both-token", "all");
    for (const std::string& method : RpcMethodNames()) {
      std::vector<std::string> others = RpcMethodNames();
      std::erase(others, method);
      text += Line("limited", TokenWithout(method), absl::StrJoin(others, ","));
    }
    Write("tokens", text);
  }

  void Start(const std::string& admin_listen = "") {
    auto store = CertificateStore::Load({.certificate = directory_ + "/tls.crt",
                                         .key = directory_ + "/tls.key",
                                         .client_ca = directory_ + "/ca.crt"},
                                        absl::Now());
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
    auto authenticator = TokenAuthenticator::Load(directory_ + "/tokens", RpcMethodNames());
    ASSERT_TRUE(authenticator.ok()) << authenticator.status();
    authenticator_ = *std::move(authenticator);
    auto server = RpcServer::Start({.listen = "127.0.0.1:0",
                                    .admin_listen = admin_listen,
                                    .certificates = store_.get(),
                                    .model = model_,
                                    .tokenizer = *tokenizer_,
                                    .placement = placement_,
                                    .loop = loop_,
                                    .authenticator = authenticator_.get(),
                                    .reflection = reflection_,
                                    .ranks = [] { return std::vector<RankView>(); },
                                    .drain_timeout = absl::Seconds(1),
                                    .started = absl::Now()});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  void TearDown() override { server_.reset(); }  // before what it refers to

  std::shared_ptr<grpc::Channel> Connect(const TestCa& trusted, const PemPair& pair) const {
    return NewChannel(server_->address(),
                      grpc::SslCredentials({.pem_root_certs = trusted.certificate_pem(),
                                            .pem_private_key = pair.key,
                                            .pem_cert_chain = pair.certificate}));
  }

  bool reflection_ = false;
  const TestCa ca_{"ca"};
  const TestCa other_ca_{"another ca"};
  std::unique_ptr<CertificateStore> store_;
  std::unique_ptr<TokenAuthenticator> authenticator_;
};

TEST_F(FrontDoorTest, EveryRpcHasALineInTheTable) {
  std::set<std::string> found = LinkedMethods();
  found.merge(WrittenMethods());
  std::set<std::string> listed;
  for (const auto& [method, access] : Entries()) listed.insert(method);
  EXPECT_EQ(found, listed);
}

TEST_F(FrontDoorTest, WhoIsNotEntitledIsRefusedAtEveryRpcWithTheRightCode) {
  Start();
  const auto good = Connect(ca_, ca_.Issue("client"));
  const auto no_certificate = Connect(ca_, {});
  const auto wrong_ca = Connect(ca_, other_ca_.Issue("client"));
  const auto plaintext = NewChannel(server_->address(), grpc::InsecureChannelCredentials());
  for (const auto& [method, access] : Entries()) {
    SCOPED_TRACE(method);
    for (const auto& channel : {no_certificate, wrong_ca, plaintext}) {
      EXPECT_EQ(RawCall(channel, method, "both-token").error_code(), StatusCode::UNAVAILABLE);
    }
    if (access == Access::kNotServed) {
      EXPECT_EQ(RawCall(good, method, "both-token").error_code(), StatusCode::UNIMPLEMENTED);
      continue;
    }
    if (access == Access::kOpen) {
      EXPECT_EQ(RawCall(good, method, "").error_code(), StatusCode::OK);
      continue;
    }
    const std::string other = access == Access::kAdmin ? "user-token" : "operator-token";
    EXPECT_EQ(RawCall(good, method, "").error_code(), StatusCode::UNAUTHENTICATED);
    EXPECT_EQ(RawCall(good, method, "wrong-token").error_code(), StatusCode::UNAUTHENTICATED);
    EXPECT_EQ(RawCall(good, method, other).error_code(), StatusCode::PERMISSION_DENIED);
    EXPECT_EQ(RawCall(good, method, TokenWithout(method)).error_code(),
              StatusCode::PERMISSION_DENIED);
  }
  EXPECT_EQ(loop_.num_submitted(), 0u);
  EXPECT_FALSE(loop_.draining());
}

TEST_F(FrontDoorTest, WhoIsEntitledGetsThrough) {
  Start();
  const auto channel = Connect(ca_, ca_.Issue("client"));
  for (const auto& [method, access] : Entries()) {
    if (access == Access::kNotServed || access == Access::kOpen) continue;
    const std::string token = access == Access::kAdmin ? "operator-token" : "user-token";
    for (const std::string& each : {token, std::string("both-token")}) {
      EXPECT_THAT(RawCall(channel, method, each).error_code(),
                  AnyOf(Eq(StatusCode::OK), Eq(StatusCode::INVALID_ARGUMENT)))
          << method;  // an empty message is no good request
    }
  }
}

TEST_F(FrontDoorTest, ReflectionIsServedWhenAskedFor) {
  reflection_ = true;
  Start();
  EXPECT_TRUE(RawCall(Connect(ca_, ca_.Issue("client")),
                      "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "")
                  .ok());
}

TEST_F(FrontDoorTest, AdminCallsOnTheirOwnSocketAreNowhereElse) {
  const std::string socket = directory_ + "/admin.sock";
  Start("unix:" + socket);
  EXPECT_EQ(server_->admin_address(), "unix:" + socket);
  const auto permissions = std::filesystem::status(socket).permissions();
  EXPECT_EQ(permissions & std::filesystem::perms::mask, std::filesystem::perms(0600));
  const auto front = Connect(ca_, ca_.Issue("client"));
  const auto back = NewChannel(server_->admin_address(), grpc::InsecureChannelCredentials());
  for (const auto& [method, access] : Entries()) {
    SCOPED_TRACE(method);
    if (access == Access::kAdmin) {
      EXPECT_EQ(RawCall(front, method, "both-token").error_code(), StatusCode::UNIMPLEMENTED);
      EXPECT_EQ(RawCall(back, method, "").error_code(), StatusCode::UNAUTHENTICATED);
      EXPECT_EQ(RawCall(back, method, "user-token").error_code(), StatusCode::PERMISSION_DENIED);
      EXPECT_EQ(RawCall(back, method, "operator-token").error_code(), StatusCode::OK);
    } else if (access == Access::kInference) {
      EXPECT_EQ(RawCall(back, method, "both-token").error_code(), StatusCode::UNIMPLEMENTED);
    } else if (access == Access::kOpen) {
      EXPECT_EQ(RawCall(back, method, "").error_code(), StatusCode::OK);
    }
  }
}

TEST_F(FrontDoorTest, NewConnectionsGetTheNewCertificateWhileOldOnesStayUp) {
  Start();
  const PemPair client = ca_.Issue("client");
  const auto old_connection = Connect(ca_, client);
  const std::string method = "moed.v1.InferenceService/GetModel";
  ASSERT_TRUE(RawCall(old_connection, method, "user-token").ok());
  // The whole authority changes: server, and who may sign clients.
  WritePair(other_ca_.Issue("server"));
  Write("ca.crt", other_ca_.certificate_pem());
  ASSERT_TRUE(store_->Reload(absl::Now()).ok());
  EXPECT_TRUE(RawCall(Connect(other_ca_, other_ca_.Issue("client")), method, "user-token").ok());
  EXPECT_EQ(RawCall(Connect(ca_, client), method, "user-token").error_code(),
            StatusCode::UNAVAILABLE);
  EXPECT_EQ(RawCall(Connect(other_ca_, client), method, "user-token").error_code(),
            StatusCode::UNAVAILABLE);
  EXPECT_TRUE(RawCall(old_connection, method, "user-token").ok());
}

TEST_F(FrontDoorTest, BrokenFilesLeaveTlsAsItWas) {
  Start();
  Write("tls.key", other_ca_.Issue("server").key);
  EXPECT_FALSE(store_->Reload(absl::Now()).ok());
  EXPECT_TRUE(
      RawCall(Connect(ca_, ca_.Issue("client")), "moed.v1.InferenceService/GetModel", "user-token")
          .ok());
}

TEST_F(FrontDoorTest, ANewTokenOpensTheDoorAndAnOldOneNoLonger) {
  Start();
  const auto channel = Connect(ca_, ca_.Issue("client"));
  const std::string method = "moed.v1.InferenceService/GetModel";
  Write("tokens", Line("user", "next-token", "inference"));
  ASSERT_TRUE(authenticator_->Reload().ok());
  EXPECT_TRUE(RawCall(channel, method, "next-token").ok());
  EXPECT_EQ(RawCall(channel, method, "user-token").error_code(), StatusCode::UNAUTHENTICATED);
}

TEST_F(FrontDoorTest, ATenantsRateAndConcurrencyAreEnforcedAndSayWhenToTryAgain) {
  Write("tokens", Line("slow", "slow-token", "inference") +
                      "tenant slow requests_per_second=0.001\n" +
                      Line("narrow", "narrow-token", "inference") +
                      "tenant narrow max_concurrent=1 tokens_per_minute=1000\n" +
                      Line("free", "free-token", "inference"));
  Start();
  const auto channel = Connect(ca_, ca_.Issue("client"));
  const std::string method = "moed.v1.InferenceService/GetModel";
  EXPECT_TRUE(RawCall(channel, method, "slow-token").ok());
  EXPECT_EQ(RawCall(channel, method, "slow-token").error_code(), StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(RawCall(channel, method, "free-token").ok());

  const auto generate = [&](grpc::ClientContext& context, const std::string& token) {
    context.AddMetadata("authorization", "Bearer " + token);
    return v1::InferenceService::NewStub(channel)->Generate(&context, TextRequest("abc"));
  };
  grpc::ClientContext first, second, third;
  const auto running = generate(first, "narrow-token");
  v1::GenerateResponse response;
  ASSERT_TRUE(running->Read(&response));
  const auto refused = generate(second, "narrow-token");
  EXPECT_FALSE(refused->Read(&response));
  EXPECT_EQ(refused->Finish().error_code(), StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(second.GetServerTrailingMetadata().count("grpc-retry-pushback-ms"), 1u);
  const auto other = generate(third, "free-token");
  EXPECT_TRUE(other->Read(&response)) << "another tenant's limits are its own";
  EXPECT_EQ(loop_.WaitForRequest(0).request.tenant, "narrow");
  EXPECT_EQ(loop_.WaitForRequest(1).request.tenant, "free");
  first.TryCancel();
  third.TryCancel();
  running->Finish();
  other->Finish();
  loop_.ForgetRequests();
}

}  // namespace
}  // namespace moed
