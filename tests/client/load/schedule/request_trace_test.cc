#include "client/load/schedule/request_trace.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>
#include <string>

namespace moed::load {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

absl::StatusOr<RequestTrace> Read(const std::string& text, TraceFormat format) {
  std::istringstream in(text);
  return ReadTrace(in, format, "t");
}

std::string ErrorOf(const std::string& text, TraceFormat format) {
  return std::string(Read(text, format).status().message());
}

TEST(RequestTraceTest, ReadsMooncakesLines) {
  const auto trace = Read(
      "{\"timestamp\": 1000, \"input_length\": 600, \"output_length\": 52, \"hash_ids\": [4, 9]}\n"
      "\n"
      "{\"timestamp\": 3500, \"input_length\": 512, \"output_length\": 1, \"hash_ids\": [4]}\n",
      TraceFormat::kMooncake);
  ASSERT_TRUE(trace.ok()) << trace.status();
  ASSERT_EQ(trace->requests.size(), 2u);
  EXPECT_DOUBLE_EQ(trace->requests[0].seconds, 0);
  EXPECT_EQ(trace->requests[0].num_prompt_tokens, 600);
  EXPECT_THAT(trace->requests[0].block_hashes, ElementsAre(4, 9));
  EXPECT_DOUBLE_EQ(trace->requests[1].seconds, 2.5);
}

TEST(RequestTraceTest, ReadsAzuresTimesWithAndWithoutOffset) {
  const auto trace = Read(
      "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
      "2023-11-16 18:15:46.6805900,4808,10\r\n"
      "2023-11-16 18:15:50.9951690,3180,8\r\n"
      "2023-11-16 18:15:51.680590+00:00,110,27\r\n",
      TraceFormat::kAzure);
  ASSERT_TRUE(trace.ok()) << trace.status();
  ASSERT_EQ(trace->requests.size(), 3u);
  EXPECT_NEAR(trace->requests[1].seconds, 4.314579, 1e-6);
  EXPECT_NEAR(trace->requests[2].seconds, 5, 1e-6);
  EXPECT_EQ(trace->requests[2].num_output_tokens, 27);
}

TEST(RequestTraceTest, ReadsBurstGptAndSkipsItsFailures) {
  const auto trace = Read(
      "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
      "5,ChatGPT,472,18,490,Conversation log\n"
      "45,ChatGPT,1087,0,1087,API log\n"
      "118.5,GPT-4,417,276,693,Conversation log\n",
      TraceFormat::kBurstGpt);
  ASSERT_TRUE(trace.ok()) << trace.status();
  ASSERT_EQ(trace->requests.size(), 2u);
  EXPECT_EQ(trace->num_skipped, 1);
  EXPECT_DOUBLE_EQ(trace->requests[1].seconds, 113.5);
}

TEST(RequestTraceTest, SortsWhatIsOutOfOrder) {
  const auto trace = Read("20,m,1,1\n10,m,2,2\n", TraceFormat::kBurstGpt);
  ASSERT_TRUE(trace.ok());
  EXPECT_EQ(trace->requests[0].num_prompt_tokens, 2);
  EXPECT_DOUBLE_EQ(trace->requests[1].seconds, 10);
}

TEST(RequestTraceTest, NamesTheLineThatIsWrong) {
  const std::string good = "{\"timestamp\": 0, \"input_length\": 5, \"output_length\": 5}\n";
  EXPECT_THAT(ErrorOf(good + "{\"timestamp\": 1", TraceFormat::kMooncake), StartsWith("t:2: "));
  EXPECT_THAT(ErrorOf(good + good + "[]\n", TraceFormat::kMooncake), StartsWith("t:3: "));
  EXPECT_THAT(
      ErrorOf("{\"timestamp\":0,\"input_length\":5.5,\"output_length\":5}", TraceFormat::kMooncake),
      StartsWith("t:1: expected the numbers"));
  EXPECT_THAT(
      ErrorOf("{\"timestamp\":0,\"input_length\":-5,\"output_length\":5}", TraceFormat::kMooncake),
      HasSubstr("-5 tokens"));
  EXPECT_THAT(ErrorOf("{\"timestamp\":0,\"input_length\":513,\"output_length\":5,\"hash_ids\":[1]}",
                      TraceFormat::kMooncake),
              HasSubstr("expected 2"));
  EXPECT_THAT(ErrorOf("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,1,2\nnow,1,2\n",
                      TraceFormat::kAzure),
              StartsWith("t:3: 'now' is no time"));
  EXPECT_THAT(ErrorOf("2023-11-16 18:15:46,1\n", TraceFormat::kAzure), HasSubstr("2 fields"));
  EXPECT_THAT(ErrorOf("5,m,many,1\n", TraceFormat::kBurstGpt), HasSubstr("'many'"));
  EXPECT_THAT(ErrorOf("1e300,m,1,1\n", TraceFormat::kBurstGpt), HasSubstr("out of range"));
  EXPECT_THAT(ErrorOf("5,m,99999999999,1\n", TraceFormat::kBurstGpt), HasSubstr("tokens"));
}

TEST(RequestTraceTest, RefusesATraceWithoutRequests) {
  EXPECT_THAT(ErrorOf("", TraceFormat::kMooncake), HasSubstr("holds no request"));
  EXPECT_THAT(ErrorOf("5,m,10,0\n", TraceFormat::kBurstGpt), HasSubstr("holds no request"));
}

TEST(RequestTraceTest, TellsTheFormatsApart) {
  const auto detect = [](const std::string& text) {
    std::istringstream in(text);
    const auto format = DetectTraceFormat(in, "t");
    std::string first;
    std::getline(in, first);
    EXPECT_EQ(first + "\n", text);  // nothing is lost
    return format;
  };
  EXPECT_EQ(detect("{\"timestamp\": 1}\n").value(), TraceFormat::kMooncake);
  EXPECT_EQ(detect("TIMESTAMP,ContextTokens,GeneratedTokens\n").value(), TraceFormat::kAzure);
  EXPECT_EQ(detect("5,m,1,1,2,API log\n").value(), TraceFormat::kBurstGpt);
  EXPECT_FALSE(detect("once upon a time\n").ok());
}

}  // namespace
}  // namespace moed::load
