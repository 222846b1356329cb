#include "client/command_line.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "client/generate_request.h"
#include "client/input_text.h"

namespace moed {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::variant<CommandLine, int> Parse(std::vector<const char*> args) {
  args.insert(args.begin(), "moedctl");
  return ParseCommandLine(static_cast<int>(args.size()), args.data());
}

CommandLine ParseOk(std::vector<const char*> args) {
  std::variant<CommandLine, int> line = Parse(std::move(args));
  EXPECT_TRUE(std::holds_alternative<CommandLine>(line));
  return std::holds_alternative<CommandLine>(line) ? std::get<CommandLine>(line) : CommandLine{};
}

int ParseExit(std::vector<const char*> args) {
  const std::variant<CommandLine, int> line = Parse(std::move(args));
  return std::holds_alternative<int>(line) ? std::get<int>(line) : -1;
}

TEST(CommandLineTest, GlobalFlagsMayStandBeforeOrAfterTheCommand) {
  for (const CommandLine& line : {ParseOk({"--json", "--server", "h:1", "status"}),
                                  ParseOk({"status", "--server", "h:1", "--json"})}) {
    EXPECT_TRUE(line.json);
    EXPECT_EQ(line.connection.server, "h:1");
    EXPECT_EQ(line.command, "status");
  }
  EXPECT_EQ(ParseOk({"status"}).connection.server, "127.0.0.1:50051");
}

TEST(CommandLineTest, WrongUsageExitsWithTwo) {
  EXPECT_EQ(ParseExit({}), 2);
  EXPECT_EQ(ParseExit({"no-such-command"}), 2);
  EXPECT_EQ(ParseExit({"status", "--no-such-flag"}), 2);
  EXPECT_EQ(ParseExit({"generate"}), 2) << "a prompt is missing";
  EXPECT_EQ(ParseExit({"generate", "prompt", "--file", "f"}), 2) << "two prompts";
  EXPECT_EQ(ParseExit({"generate", "prompt", "--temperature", "warm"}), 2);
  EXPECT_EQ(ParseExit({"detokenize"}), 2);
  EXPECT_EQ(ParseExit({"--help"}), 0);
  EXPECT_EQ(ParseExit({"generate", "--help"}), 0);
}

TEST(CommandLineTest, ADashIsStandardInput) {
  EXPECT_EQ(ParseOk({"generate", "-"}).generate.prompt.text, "-");
  EXPECT_EQ(ParseOk({"generate", "--max-tokens", "3", "-"}).generate.prompt.text, "-");
  EXPECT_EQ(ParseOk({"generate", "--", "--prompt"}).generate.prompt.text, "--prompt");
}

TEST(CommandLineTest, AllFlagsReachTheRequest) {
  const CommandLine line = ParseOk({"generate",
                                    "hi",
                                    "--temperature",
                                    "0",
                                    "--top-k",
                                    "5",
                                    "--top-p",
                                    "0.5",
                                    "--min-p",
                                    "0.25",
                                    "--presence-penalty",
                                    "-1",
                                    "--frequency-penalty",
                                    "1.5",
                                    "--repetition-penalty",
                                    "1.25",
                                    "--logit-bias",
                                    "7=-2.5,8=1",
                                    "--logit-bias",
                                    "9=100",
                                    "--allowed-token-ids",
                                    "1,2",
                                    "--seed",
                                    "18446744073709551615",
                                    "-n",
                                    "3",
                                    "--max-tokens",
                                    "10",
                                    "--min-tokens",
                                    "2",
                                    "--stop",
                                    "a,b",
                                    "--stop",
                                    "c",
                                    "--stop-token-ids",
                                    "3,4",
                                    "--ignore-eos",
                                    "--include-stop-string",
                                    "--echo",
                                    "--return-token-ids",
                                    "--logprobs",
                                    "2",
                                    "--keep-special-tokens",
                                    "--priority",
                                    "-5",
                                    "--cache-salt",
                                    "s",
                                    "--client-request-id",
                                    "id",
                                    "--bypass-prefix-cache",
                                    "--no-special-tokens",
                                    "--plain-special-tokens",
                                    "--model",
                                    "m"});
  const absl::StatusOr<v1::GenerateRequest> request = MakeGenerateRequest(line.generate, "hi");
  ASSERT_TRUE(request.ok()) << request.status();
  const v1::SamplingOptions& sampling = request->sampling();
  EXPECT_TRUE(sampling.has_temperature());
  EXPECT_EQ(sampling.temperature(), 0);
  EXPECT_EQ(sampling.top_k(), 5);
  EXPECT_EQ(sampling.top_p(), 0.5f);
  EXPECT_EQ(sampling.min_p(), 0.25f);
  EXPECT_EQ(sampling.presence_penalty(), -1);
  EXPECT_EQ(sampling.frequency_penalty(), 1.5f);
  EXPECT_EQ(sampling.repetition_penalty(), 1.25f);
  EXPECT_EQ(sampling.logit_bias().size(), 3u);
  EXPECT_EQ(sampling.logit_bias().at(7), -2.5f);
  EXPECT_THAT(sampling.allowed_token_ids(), ElementsAre(1, 2));
  EXPECT_EQ(sampling.seed(), ~uint64_t{0});
  EXPECT_EQ(sampling.n(), 3);
  EXPECT_EQ(request->stopping().max_tokens(), 10);
  EXPECT_EQ(request->stopping().min_tokens(), 2);
  EXPECT_THAT(request->stopping().stop(), ElementsAre("a,b", "c"));
  EXPECT_THAT(request->stopping().stop_token_ids(), ElementsAre(3, 4));
  EXPECT_TRUE(request->stopping().ignore_eos() && request->stopping().include_stop_string());
  EXPECT_TRUE(request->response().echo() && request->response().return_token_ids());
  EXPECT_EQ(request->response().logprobs(), 2);
  EXPECT_TRUE(request->response().has_skip_special_tokens());
  EXPECT_FALSE(request->response().skip_special_tokens());
  EXPECT_EQ(request->priority(), -5);
  EXPECT_EQ(request->cache_salt(), "s");
  EXPECT_EQ(request->client_request_id(), "id");
  EXPECT_TRUE(request->bypass_prefix_cache());
  EXPECT_FALSE(request->add_special_tokens() || request->parse_special_tokens());
  EXPECT_TRUE(request->has_add_special_tokens() && request->has_parse_special_tokens());
  EXPECT_EQ(request->model(), "m");
  EXPECT_EQ(request->text(), "hi");
}

TEST(CommandLineTest, WhatIsNotGivenIsLeftToTheServer) {
  const absl::StatusOr<v1::GenerateRequest> request =
      MakeGenerateRequest(ParseOk({"generate", "--token-ids", "5,6"}).generate, "");
  ASSERT_TRUE(request.ok());
  EXPECT_THAT(request->token_ids().ids(), ElementsAre(5, 6));
  EXPECT_FALSE(request->sampling().has_temperature());
  EXPECT_FALSE(request->sampling().has_seed());
  EXPECT_FALSE(request->stopping().has_max_tokens());
  EXPECT_FALSE(request->response().has_logprobs());
  EXPECT_FALSE(request->has_add_special_tokens());
}

TEST(CommandLineTest, AMalformedLogitBiasIsNamed) {
  for (const char* bias : {"7", "x=1", "7=", "7=1=2"}) {
    const CommandLine line = ParseOk({"generate", "hi", "--logit-bias", bias});
    const absl::Status status = MakeGenerateRequest(line.generate, "hi").status();
    EXPECT_THAT(std::string(status.message()), HasSubstr(bias));
  }
}

/// A file with given bytes.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& bytes) {
    ::close(::mkstemp(path_.data()));
    std::ofstream(path_, std::ios::binary) << bytes;
  }
  ~TemporaryFile() { ::unlink(path_.c_str()); }
  const std::string& path() const { return path_; }

 private:
  std::string path_ = "/tmp/moedctl-XXXXXX";
};

TEST(InputTextTest, ComesFromArgumentFileOrStandardInput) {
  std::istringstream in("from stdin\n");
  const TemporaryFile file("from file\n");
  EXPECT_EQ(*ReadInputText({.text = "argument"}, in), "argument");
  EXPECT_EQ(*ReadInputText({.file = file.path()}, in), "from file\n");
  EXPECT_EQ(*ReadInputText({.text = "-"}, in), "from stdin\n");
}

TEST(InputTextTest, TextThatIsNotUtf8IsRefusedAtItsFirstBadByte) {
  std::istringstream in;
  EXPECT_THAT(std::string(ReadInputText({.text = "ok\xff"}, in).status().message()),
              HasSubstr("byte 2"));
}

TEST(InputTextTest, AMissingFileIsNamed) {
  std::istringstream in;
  EXPECT_THAT(std::string(ReadInputText({.file = "/nonexistent"}, in).status().message()),
              HasSubstr("/nonexistent: No such file"));
}

TEST(InputTextTest, ATokenIsOneWord) {
  EXPECT_EQ(*ReadToken(TemporaryFile("  secret-1\n").path()), "secret-1");
  EXPECT_FALSE(ReadToken(TemporaryFile("").path()).ok());
  EXPECT_FALSE(ReadToken(TemporaryFile("two words").path()).ok());
  EXPECT_FALSE(ReadToken(TemporaryFile("a\nb: c").path()).ok());
}

}  // namespace
}  // namespace moed
