#include "client/generate_output.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "client/message_json.h"

namespace moed {
namespace {

v1::GenerateResponse Accepted() {
  v1::GenerateResponse event;
  event.mutable_accepted()->set_request_id("r1");
  event.mutable_accepted()->set_num_prompt_tokens(3);
  event.mutable_accepted()->set_seed(~uint64_t{0});
  return event;
}

v1::GenerateResponse Text(int index, const std::string& text) {
  v1::GenerateResponse event;
  event.mutable_delta()->set_index(index);
  event.mutable_delta()->set_text(text);
  return event;
}

v1::GenerateResponse Finished(int index) {
  v1::GenerateResponse event;
  event.mutable_finished()->set_index(index);
  event.mutable_finished()->set_reason(v1::FINISH_REASON_STOP);
  event.mutable_finished()->set_num_generated_tokens(2);
  event.mutable_finished()->set_stop_string("end");
  return event;
}

TEST(GenerateTextTest, OneSequenceIsShownAsItComesWithoutAHeader) {
  std::vector<std::string> pieces;
  GenerateText text(1, [&](const std::string& piece) { pieces.push_back(piece); });
  for (const auto& event : {Accepted(), Text(0, "Once"), Text(0, ""), Text(0, " upon")}) {
    text.Add(event);
  }
  EXPECT_EQ(pieces, (std::vector<std::string>{"Once", " upon"}));
  text.End();
  EXPECT_EQ(pieces.back(), "\n");
}

TEST(GenerateTextTest, SequencesAreShownOneAfterAnotherWhateverTheirOrder) {
  std::string out;
  GenerateText text(3, [&](const std::string& piece) { out += piece; });
  text.Add(Accepted());
  EXPECT_EQ(out, "=== sequence 1 of 3 ===\n");
  text.Add(Text(2, "c1"));
  text.Add(Text(1, "b1\n"));
  text.Add(Text(0, "a1"));
  text.Add(Finished(2));
  EXPECT_EQ(out, "=== sequence 1 of 3 ===\na1");
  text.Add(Finished(0));
  text.Add(Text(1, "b2\n"));
  EXPECT_EQ(out, "=== sequence 1 of 3 ===\na1\n=== sequence 2 of 3 ===\nb1\nb2\n");
  text.Add(Finished(1));
  text.End();
  EXPECT_EQ(out,
            "=== sequence 1 of 3 ===\na1\n=== sequence 2 of 3 ===\nb1\nb2\n"
            "=== sequence 3 of 3 ===\nc1\n");
}

TEST(GenerateTextTest, TokenIdsAreShownWhenThereIsNoText) {
  std::string out;
  GenerateText text(1, [&](const std::string& piece) { out += piece; });
  v1::GenerateResponse event;
  event.mutable_delta()->add_token_ids(4);
  event.mutable_delta()->add_token_ids(5);
  text.Add(event);
  EXPECT_EQ(out, "4 5 ");
}

TEST(GenerateTextTest, AnEventForAnUnknownSequenceIsIgnored) {
  std::string out;
  GenerateText text(1, [&](const std::string& piece) { out += piece; });
  text.Add(Text(7, "x"));
  text.Add(Text(-1, "x"));
  text.Add(Finished(9));
  EXPECT_EQ(out, "");
}

TEST(GenerateJsonTest, EverythingIsInOneObject) {
  GenerateJson collected(2);
  v1::GenerateResponse delta = Text(1, "he");
  delta.mutable_delta()->add_token_ids(9);
  v1::TokenLogprobs* logprob = delta.mutable_delta()->add_logprobs();
  logprob->set_token_id(9);
  logprob->set_logprob(-0.1f);
  logprob->set_token("h\xff");
  v1::GenerateResponse done;
  done.mutable_done()->mutable_usage()->set_num_generated_tokens(4);
  for (const auto& event : {Accepted(), delta, Text(1, "llo"), Finished(1), Finished(0), done}) {
    collected.Add(event);
  }
  const nlohmann::ordered_json& json = collected.json();
  EXPECT_EQ(json["request_id"], "r1");
  EXPECT_EQ(json["seed"], ~uint64_t{0});
  EXPECT_EQ(json["sequences"][1]["text"], "hello");
  EXPECT_EQ(json["sequences"][1]["token_ids"], nlohmann::ordered_json::array({9}));
  EXPECT_EQ(json["sequences"][1]["finish_reason"], "stop");
  EXPECT_EQ(json["sequences"][1]["stop_string"], "end");
  EXPECT_EQ(json["sequences"][1]["logprobs"][0]["logprob"].dump(), "-0.1");
  EXPECT_EQ(json["sequences"][1]["logprobs"][0]["token"], "h�");
  EXPECT_EQ(json["sequences"][0]["text"], "");
  EXPECT_EQ(json["usage"]["num_generated_tokens"], 4);
  EXPECT_TRUE(nlohmann::json::accept(DumpJson(json)));
}

}  // namespace
}  // namespace moed
