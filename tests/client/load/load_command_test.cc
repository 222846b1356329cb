#include "client/load/load_command.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "client/load/load_spec.h"
#include "tests/client/load/instant_server.h"

namespace moed::load {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::SizeIs;

/// Runs moed-load as main does, against an instant server on a unix socket.
class LoadCommandTest : public ::testing::Test {
 protected:
  LoadCommandTest() { EXPECT_NE(::mkdtemp(directory_.data()), nullptr); }
  ~LoadCommandTest() override { std::filesystem::remove_all(directory_); }

  std::string Path(const std::string& name) const { return directory_ + "/" + name; }

  void Serve(InstantServerOptions options) {
    options.address = "unix:" + Path("socket");
    server_.reset();  // it removes its socket
    server_ = std::make_unique<InstantServer>(options);
  }

  int Run(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"moed-load", "--server", "unix:" + Path("socket")});
    // On a busy machine a client may be late; that is not what these tests are about.
    arguments.insert(arguments.end(), {"--max-lag-ms", "10000", "--max-cpu", "1", "--quiet"});
    std::vector<const char*> argv;
    for (const std::string& argument : arguments) argv.push_back(argument.c_str());
    const auto line = ParseLoadCommandLine(static_cast<int>(argv.size()), argv.data());
    if (const int* exit_code = std::get_if<int>(&line)) return *exit_code;
    out_.str("");
    err_.str("");
    LoadCommand command(std::get<LoadFlags>(std::get<LoadCommandLine>(line)),
                        {.out = out_, .err = err_});
    return command.Run();
  }

  int Compare(const CompareFlags& flags) {
    out_.str("");
    return RunCompare(flags, {.out = out_, .err = err_});
  }

  nlohmann::json Json(const std::string& name) const {
    std::ifstream in(Path(name));
    return nlohmann::json::parse(in, nullptr, false);
  }

  std::string directory_ = "/tmp/moed-load-test.XXXXXX";
  std::unique_ptr<InstantServer> server_;
  std::ostringstream out_;
  std::ostringstream err_;
};

TEST_F(LoadCommandTest, WritesEveryOutputOfAClosedLoop) {
  Serve({});
  ASSERT_EQ(Run({"--concurrency", "4", "-n", "60", "--output-len", "5", "--num-warmups", "3",
                 "--json", Path("a.json"), "--csv", Path("a.csv"), "--html", Path("a.html"),
                 "--save-detailed", "--goodput", "ttft:10000", "tpot:10000"}),
            0)
      << err_.str();
  const nlohmann::json json = Json("a.json");
  EXPECT_EQ(json["completed"], 60);
  EXPECT_EQ(json["total_output_tokens"], 300);
  EXPECT_THAT(json["ttfts"], SizeIs(60));
  EXPECT_THAT(json["itls"][0], SizeIs(4));
  EXPECT_EQ(json["generated_texts"][0], " word word word word word");
  EXPECT_EQ(json["moed"]["slo"]["attainment"], 1.0);
  EXPECT_THAT(json["moed"]["server"]["experts"]["layers"], SizeIs(2));
  EXPECT_EQ(server_->num_requests(), 63);
  EXPECT_THAT(out_.str(), HasSubstr("60 completed"));
  EXPECT_GT(std::filesystem::file_size(Path("a.csv")), 100u);
  EXPECT_GT(std::filesystem::file_size(Path("a.html")), 10000u);
}

TEST_F(LoadCommandTest, ReplaysATraceInScaledTime) {
  Serve({});
  std::ofstream(Path("t.csv"))
      << "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
         "0,m,10,3,13,x\n2,m,20,4,24,x\n4,m,30,5,35,x\n";
  ASSERT_EQ(Run({"--trace", Path("t.csv"), "--time-scale", "0.05", "--json", Path("a.json"),
                 "--save-detailed"}),
            0)
      << err_.str();
  const nlohmann::json json = Json("a.json");
  EXPECT_EQ(json["input_lens"], nlohmann::json({10, 20, 30}));
  EXPECT_EQ(json["output_lens"], nlohmann::json({3, 4, 5}));
  EXPECT_NEAR(json["intended_times"][2].get<double>(), 0.2, 1e-6);
}

TEST_F(LoadCommandTest, ReadsShareGptAndJsonLines) {
  Serve({});
  std::ofstream(Path("s.json")) << R"([{"conversations": [{"from": "human", "value": "question"},
      {"from": "gpt", "value": "answer"}]}])";
  ASSERT_EQ(Run({"--dataset", "sharegpt", "--dataset-path", Path("s.json"), "-n", "3", "--json",
                 Path("a.json"), "--save-detailed"}),
            0)
      << err_.str();
  EXPECT_EQ(Json("a.json")["output_lens"], nlohmann::json({6, 6, 6}));  // bytes are its tokens
  std::ofstream(Path("p.jsonl")) << "{\"token_ids\": [1,2,3], \"output_len\": 2}\n";
  ASSERT_EQ(Run({"--dataset", "jsonl", "--dataset-path", Path("p.jsonl"), "-n", "2", "--json",
                 Path("a.json"), "--save-detailed"}),
            0)
      << err_.str();
  EXPECT_EQ(Json("a.json")["input_lens"], nlohmann::json({3, 3}));
  ASSERT_EQ(Run({"--dataset", "sonnet", "-n", "2", "--input-len", "33", "--json", Path("a.json"),
                 "--save-detailed"}),
            0)
      << err_.str();
  EXPECT_EQ(Json("a.json")["input_lens"], nlohmann::json({33, 33}));
}

TEST_F(LoadCommandTest, SkewsExpertLoadByTheChosenAmount) {
  Serve({});
  ASSERT_EQ(Run({"--concurrency", "4", "-n", "400", "--input-len", "64", "--output-len", "1",
                 "--expert-balancedness", "0.7", "--json", Path("a.json")}),
            0)
      << err_.str();
  const nlohmann::json skew = Json("a.json")["moed"]["expert_skew"];
  EXPECT_NEAR(skew["predicted"].get<double>(), 0.7, 0.01);
  EXPECT_NEAR(skew["measured"].get<double>(), 0.7, 0.05);
}

TEST_F(LoadCommandTest, ALoadThatDriftsIsMeasuredWhileItIsUneven) {
  Serve({.service_s = 0.0005});
  ASSERT_EQ(Run({"--concurrency", "4", "--duration", "4", "--input-len", "64", "--output-len", "1",
                 "--expert-balancedness", "0.7", "--expert-drift", "1", "--json", Path("a.json")}),
            0)
      << err_.str();
  const nlohmann::json moed = Json("a.json")["moed"];
  EXPECT_NEAR(moed["expert_skew"]["measured"].get<double>(), 0.72, 0.07);
  EXPECT_GT(moed["server"]["experts"]["mean_layer_balancedness"].get<double>(), 0.9);
}

TEST_F(LoadCommandTest, SearchFindsTheLoadThatTheServerCanServe) {
  Serve({.service_s = 0.02});  // 50 requests a second
  ASSERT_EQ(Run({"--search", "--rate", "10", "--arrivals", "constant", "--duration", "0.6",
                 "--output-len", "1", "--goodput", "ttft:150", "--attainment", "0.95",
                 "--search-tolerance", "0.3", "--json", Path("a.json")}),
            0)
      << err_.str();
  const nlohmann::json search = Json("a.json")["moed"]["search"];
  EXPECT_GT(search["best"].get<double>(), 30);
  EXPECT_LT(search["best"].get<double>(), 80);
  EXPECT_GE(search["points"].size(), 3u);
}

TEST_F(LoadCommandTest, RepeatsGiveOneSampleEach) {
  Serve({});
  ASSERT_EQ(Run({"--concurrency", "2", "-n", "20", "--repeat", "3", "--output-len", "2", "--json",
                 Path("a.json")}),
            0)
      << err_.str();
  const nlohmann::json json = Json("a.json");
  EXPECT_EQ(json["completed"], 60);
  EXPECT_THAT(json["moed"]["samples"]["figures"]["mean_ttft_ms"]["values"], SizeIs(3));
  EXPECT_THAT(out_.str(), HasSubstr("95% from"));
}

TEST_F(LoadCommandTest, VerifyFindsAnswersThatDifferUnderLoad) {
  Serve({});
  ASSERT_EQ(Run({"--concurrency", "8", "-n", "40", "--output-len", "6", "--verify", "4"}), 0);
  EXPECT_THAT(out_.str(), HasSubstr("40 answers compared, 0 differ"));
  Serve({.corrupt_every = 11});  // beyond the four of before the load
  EXPECT_EQ(Run({"--concurrency", "8", "-n", "40", "--output-len", "6", "--verify", "4"}), 1);
  EXPECT_THAT(out_.str(), HasSubstr("40 answers compared, 4 differ"));
}

TEST_F(LoadCommandTest, CompareEndsWithThreeWhenTheSecondIsWorse) {
  // Every figure changes, or the noise of one that does not may count as worse.
  Serve({.service_s = 0.001, .token_interval_s = 0.001});
  const std::vector<std::string> run = {"--concurrency", "4", "-n",    "120",
                                        "--output-len",  "4", "--json"};
  const auto to = [&](const std::string& name) {
    std::vector<std::string> arguments = run;
    arguments.push_back(Path(name));
    return arguments;
  };
  ASSERT_EQ(Run(to("fast.json")), 0);
  Serve({.service_s = 0.005, .token_interval_s = 0.01});
  ASSERT_EQ(Run(to("slow.json")), 0);
  EXPECT_EQ(Compare({.before = Path("fast.json"), .after = Path("slow.json")}), 3);
  EXPECT_THAT(out_.str(), HasSubstr("WORSE"));
  EXPECT_EQ(Compare({.before = Path("slow.json"), .after = Path("fast.json")}), 0);
  EXPECT_EQ(Compare({.before = Path("slow.json"), .after = Path("none.json")}), 1);
}

TEST_F(LoadCommandTest, ARunThatTheClientSpoiltEndsWithFour) {
  Serve({});
  LoadFlags flags;
  flags.connection.server = server_->address();
  flags.concurrency = "64";
  flags.duration_s = 0.5;
  flags.max_cpu = 0.01;
  flags.quiet = true;
  LoadCommand command(flags, {.out = out_, .err = err_});
  EXPECT_EQ(command.Run(), 4);
  EXPECT_THAT(out_.str(), HasSubstr("NOT VALID: the client was busy"));
}

TEST_F(LoadCommandTest, FailuresAreTold) {
  EXPECT_EQ(Run({"--trace", Path("missing")}), 1);
  EXPECT_THAT(err_.str(), HasSubstr("--trace: reading"));
  EXPECT_EQ(Run({"--input-len", "0"}), 1);
  EXPECT_THAT(err_.str(), HasSubstr("--input-len: '0' is no distribution"));
  EXPECT_EQ(Run({"--rate", "fast"}), 1);
  EXPECT_THAT(err_.str(), HasSubstr("--rate: the schedule segment 'fast'"));
  EXPECT_EQ(Run({"--goodput", "ttft"}), 1);
  EXPECT_EQ(Run({"--goodput", "speed:5"}), 1);
  EXPECT_EQ(Run({"--duration", "5", "--warmup", "5"}), 1);
}

TEST_F(LoadCommandTest, WrongUsageIsRefused) {
  EXPECT_EQ(Run({"--rate", "5", "--concurrency", "5"}), 2);
  EXPECT_EQ(Run({"--search"}), 2);
  EXPECT_EQ(Run({"--dataset", "jsonl"}), 2);
  EXPECT_EQ(Run({"--verify", "4", "--temperature", "1"}), 2);
  EXPECT_EQ(Run({"--repeat", "3", "--sweep", "1,2"}), 2);
  EXPECT_EQ(Run({"--no-such-flag"}), 2);
}

TEST_F(LoadCommandTest, AnUnreachableServerIsNamedAtOnce) {
  EXPECT_EQ(Run({}), 1);
  EXPECT_THAT(err_.str(), AllOf(HasSubstr(Path("socket")), HasSubstr("UNAVAILABLE")));
}

TEST(LoadSpecTest, InfinityIsAClosedLoopWithRoomForAll) {
  LoadFlags flags;
  flags.rate = "inf";
  EXPECT_FALSE(MakeLoadSpec(flags).ok());
  flags.num_prompts = 500;
  const auto spec = MakeLoadSpec(flags).value();
  EXPECT_EQ(spec.kind, LoadSpec::Kind::kClosedLoop);
  EXPECT_EQ(spec.levels.max_level(), 500);
}

TEST(LoadSpecTest, AScheduleEndsTheRunAndHalfAMinuteIsTheDefault) {
  LoadFlags flags;
  flags.rate = "5:10,10:20";
  EXPECT_EQ(MakeLoadSpec(flags)->duration_s, 30);
  flags.rate = "5:10";
  EXPECT_EQ(MakeLoadSpec(flags)->duration_s, 10);
  flags.rate = "5";
  EXPECT_EQ(MakeLoadSpec(flags)->duration_s, 30);
  flags.num_prompts = 10;
  EXPECT_EQ(MakeLoadSpec(flags)->duration_s, 0);
}

}  // namespace
}  // namespace moed::load
