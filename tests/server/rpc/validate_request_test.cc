#include "server/rpc/validate_request.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "server/rpc/request_conversion.h"
#include "tests/server/rpc/test_model.h"

namespace moed {
namespace {

using ::testing::HasSubstr;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int32_t kIntMax = std::numeric_limits<int32_t>::max();
constexpr int32_t kIntMin = std::numeric_limits<int32_t>::min();

v1::GenerateRequest GoodRequest() {
  v1::GenerateRequest request;
  request.set_text("Once upon a time");
  return request;
}

FieldViolations Validate(const v1::GenerateRequest& request) {
  return ValidateGenerateRequest(request, TestModel());
}

// One change to a good request, and the field that must be named; "" when it stays good.
struct Case {
  const char* name;
  std::function<void(v1::GenerateRequest&)> change;
  std::string field;
};

void ExpectCases(const std::vector<Case>& cases) {
  for (const Case& c : cases) {
    v1::GenerateRequest request = GoodRequest();
    c.change(request);
    const FieldViolations violations = Validate(request);
    if (c.field.empty()) {
      EXPECT_TRUE(violations.empty())
          << c.name << ": " << violations[0].field << " " << violations[0].description;
    } else {
      ASSERT_EQ(violations.size(), 1u) << c.name;
      EXPECT_EQ(violations[0].field, c.field) << c.name;
      EXPECT_FALSE(violations[0].description.empty()) << c.name;
    }
  }
}

#define CHANGE(statement) [](v1::GenerateRequest& r) { statement; }

TEST(ValidateRequestTest, AnIdWithoutATokenIsNoneThatARequestCanName) {
  ServedModel model = TestModel();
  model.hole_token_ids = {7, 9};
  v1::GenerateRequest request;
  request.mutable_token_ids()->mutable_ids()->Add(9);
  request.mutable_sampling()->add_allowed_token_ids(8);
  request.mutable_sampling()->add_allowed_token_ids(7);
  (*request.mutable_sampling()->mutable_logit_bias())[9] = 100;
  std::vector<std::string> fields;
  for (const FieldViolation& violation : ValidateGenerateRequest(request, model)) {
    fields.push_back(violation.field);
    EXPECT_THAT(violation.description, HasSubstr("that has a token"));
  }
  EXPECT_THAT(fields, ::testing::ElementsAre("token_ids.ids[0]", "sampling.logit_bias[9]",
                                             "sampling.allowed_token_ids[1]"));
}

TEST(ValidateRequestTest, AGoodRequestHasNoViolations) {
  EXPECT_TRUE(Validate(GoodRequest()).empty());
}

TEST(ValidateRequestTest, ThePromptIsNeitherMissingNorEmptyNorTooLong) {
  ExpectCases({
      {"missing", CHANGE(r.clear_prompt()), "prompt"},
      {"no text", CHANGE(r.set_text("")), "text"},
      {"longest text", CHANGE(r.set_text(std::string(1000, 'x'))), ""},
      {"longer text", CHANGE(r.set_text(std::string(1001, 'x'))), "text"},
      {"bad utf-8",
       CHANGE(r.set_text("a\xff"
                         "b")),
       "text"},
      {"cut utf-8", CHANGE(r.set_text("a\xc3")), "text"},
      {"surrogate", CHANGE(r.set_text("\xed\xa0\x80")), "text"},
      {"good utf-8", CHANGE(r.set_text("\xf0\x9f\x98\x80")), ""},
      {"no ids", CHANGE(r.mutable_token_ids()), "token_ids.ids"},
      {"one id", CHANGE(r.mutable_token_ids()->add_ids(299)), ""},
      {"negative id", CHANGE(r.mutable_token_ids()->add_ids(-1)), "token_ids.ids[0]"},
      {"id without a token",
       CHANGE(r.mutable_token_ids()->add_ids(1); r.mutable_token_ids()->add_ids(300)),
       "token_ids.ids[1]"},
      {"most ids", CHANGE(r.mutable_token_ids()->mutable_ids()->Resize(99, 1)), ""},
      {"too many ids", CHANGE(r.mutable_token_ids()->mutable_ids()->Resize(100, 1)),
       "token_ids.ids"},
  });
}

TEST(ValidateRequestTest, SamplingNumbersAreFiniteAndInRange) {
  ExpectCases({
      {"greedy", CHANGE(r.mutable_sampling()->set_temperature(0)), ""},
      {"hottest", CHANGE(r.mutable_sampling()->set_temperature(100)), ""},
      {"too hot", CHANGE(r.mutable_sampling()->set_temperature(100.5)), "sampling.temperature"},
      {"cold", CHANGE(r.mutable_sampling()->set_temperature(-0.1)), "sampling.temperature"},
      {"nan", CHANGE(r.mutable_sampling()->set_temperature(kNaN)), "sampling.temperature"},
      {"top_k off", CHANGE(r.mutable_sampling()->set_top_k(0)), ""},
      {"top_k all", CHANGE(r.mutable_sampling()->set_top_k(300)), ""},
      {"top_k above", CHANGE(r.mutable_sampling()->set_top_k(301)), "sampling.top_k"},
      {"top_k below", CHANGE(r.mutable_sampling()->set_top_k(-1)), "sampling.top_k"},
      {"top_p 1", CHANGE(r.mutable_sampling()->set_top_p(1)), ""},
      {"top_p 0", CHANGE(r.mutable_sampling()->set_top_p(0)), "sampling.top_p"},
      {"top_p above", CHANGE(r.mutable_sampling()->set_top_p(1.01)), "sampling.top_p"},
      {"top_p nan", CHANGE(r.mutable_sampling()->set_top_p(kNaN)), "sampling.top_p"},
      {"min_p 0", CHANGE(r.mutable_sampling()->set_min_p(0)), ""},
      {"min_p 1", CHANGE(r.mutable_sampling()->set_min_p(1)), "sampling.min_p"},
      {"presence", CHANGE(r.mutable_sampling()->set_presence_penalty(-2)), ""},
      {"presence below", CHANGE(r.mutable_sampling()->set_presence_penalty(-2.1)),
       "sampling.presence_penalty"},
      {"frequency", CHANGE(r.mutable_sampling()->set_frequency_penalty(2)), ""},
      {"frequency above", CHANGE(r.mutable_sampling()->set_frequency_penalty(kInfinity)),
       "sampling.frequency_penalty"},
      {"repetition", CHANGE(r.mutable_sampling()->set_repetition_penalty(100)), ""},
      {"repetition 0", CHANGE(r.mutable_sampling()->set_repetition_penalty(0)),
       "sampling.repetition_penalty"},
      {"n default", CHANGE(r.mutable_sampling()->set_n(0)), ""},
      {"n most", CHANGE(r.mutable_sampling()->set_n(64)), ""},
      {"n above", CHANGE(r.mutable_sampling()->set_n(65)), "sampling.n"},
      {"n below", CHANGE(r.mutable_sampling()->set_n(-1)), "sampling.n"},
  });
}

TEST(ValidateRequestTest, BiasedAndAllowedTokensExistAndAreBounded) {
  ExpectCases({
      {"bias", CHANGE((*r.mutable_sampling()->mutable_logit_bias())[299] = -100), ""},
      {"bias id", CHANGE((*r.mutable_sampling()->mutable_logit_bias())[300] = 1),
       "sampling.logit_bias[300]"},
      {"bias above", CHANGE((*r.mutable_sampling()->mutable_logit_bias())[5] = 100.5),
       "sampling.logit_bias[5]"},
      {"bias nan", CHANGE((*r.mutable_sampling()->mutable_logit_bias())[5] = kNaN),
       "sampling.logit_bias[5]"},
      {"allowed", CHANGE(r.mutable_sampling()->add_allowed_token_ids(0)), ""},
      {"allowed id", CHANGE(r.mutable_sampling()->add_allowed_token_ids(kIntMin)),
       "sampling.allowed_token_ids[0]"},
      {"allowed most", CHANGE(r.mutable_sampling()->mutable_allowed_token_ids()->Resize(4096, 1)),
       ""},
      {"allowed count", CHANGE(r.mutable_sampling()->mutable_allowed_token_ids()->Resize(4097, 1)),
       "sampling.allowed_token_ids"},
  });
}

TEST(ValidateRequestTest, StoppingIsBoundedAndConsistent) {
  ExpectCases({
      {"max 1", CHANGE(r.mutable_stopping()->set_max_tokens(1)), ""},
      {"max beyond the context is clipped", CHANGE(r.mutable_stopping()->set_max_tokens(kIntMax)),
       ""},
      {"max 0", CHANGE(r.mutable_stopping()->set_max_tokens(0)), "stopping.max_tokens"},
      {"min = max",
       CHANGE(r.mutable_stopping()->set_max_tokens(5); r.mutable_stopping()->set_min_tokens(5)),
       ""},
      {"min > max",
       CHANGE(r.mutable_stopping()->set_max_tokens(5); r.mutable_stopping()->set_min_tokens(6)),
       "stopping.min_tokens"},
      {"min below", CHANGE(r.mutable_stopping()->set_min_tokens(-1)), "stopping.min_tokens"},
      {"min above", CHANGE(r.mutable_stopping()->set_min_tokens(100)), "stopping.min_tokens"},
      {"stop", CHANGE(r.mutable_stopping()->add_stop(std::string(1024, 'x'))), ""},
      {"stop empty",
       CHANGE(r.mutable_stopping()->add_stop(std::string("a"));
              r.mutable_stopping()->add_stop(std::string(""))),
       "stopping.stop[1]"},
      {"stop long", CHANGE(r.mutable_stopping()->add_stop(std::string(1025, 'x'))),
       "stopping.stop[0]"},
      {"stop utf-8", CHANGE(r.mutable_stopping()->add_stop(std::string("\x80"))),
       "stopping.stop[0]"},
      {"stop many",
       CHANGE(for (int i = 0; i < 17; ++i) r.mutable_stopping()->add_stop(std::string("x"))),
       "stopping.stop"},
      {"stop id", CHANGE(r.mutable_stopping()->add_stop_token_ids(299)), ""},
      {"stop id above", CHANGE(r.mutable_stopping()->add_stop_token_ids(300)),
       "stopping.stop_token_ids[0]"},
      {"stop ids many", CHANGE(r.mutable_stopping()->mutable_stop_token_ids()->Resize(65, 1)),
       "stopping.stop_token_ids"},
  });
}

TEST(ValidateRequestTest, TheRestIsInRange) {
  ExpectCases({
      {"logprobs", CHANGE(r.mutable_response()->set_logprobs(20)), ""},
      {"logprobs above", CHANGE(r.mutable_response()->set_logprobs(21)), "response.logprobs"},
      {"logprobs below", CHANGE(r.mutable_response()->set_logprobs(-1)), "response.logprobs"},
      {"priority", CHANGE(r.set_priority(-100)), ""},
      {"priority above", CHANGE(r.set_priority(101)), "priority"},
      {"priority below", CHANGE(r.set_priority(-101)), "priority"},
      {"model", CHANGE(r.set_model(std::string(256, 'm'))), ""},
      {"model long", CHANGE(r.set_model(std::string(257, 'm'))), "model"},
      {"salt", CHANGE(r.set_cache_salt(std::string(256, 's'))), ""},
      {"salt long", CHANGE(r.set_cache_salt(std::string(257, 's'))), "cache_salt"},
      {"client id", CHANGE(r.set_client_request_id(std::string(128, 'c'))), ""},
      {"client id long", CHANGE(r.set_client_request_id(std::string(129, 'c'))),
       "client_request_id"},
  });
}

TEST(ValidateRequestTest, LogprobsOfMoreTokensThanTheModelHasAreRefused) {
  ServedModel model = TestModel();
  model.vocab_size = 8;
  v1::GenerateRequest request = GoodRequest();
  request.mutable_response()->set_logprobs(8);
  EXPECT_TRUE(ValidateGenerateRequest(request, model).empty());
  request.mutable_response()->set_logprobs(9);
  const FieldViolations violations = ValidateGenerateRequest(request, model);
  ASSERT_EQ(violations.size(), 1u);
  EXPECT_EQ(violations[0].field, "response.logprobs");
  EXPECT_EQ(violations[0].description, "is 9; expected a number in [0, 8]");
}

TEST(ValidateRequestTest, AllFieldsAtFaultAreReportedAtOnce) {
  v1::GenerateRequest request;
  request.mutable_sampling()->set_top_p(2);
  request.mutable_stopping()->set_max_tokens(-3);
  request.set_priority(1000);
  const FieldViolations violations = Validate(request);
  ASSERT_EQ(violations.size(), 4u);
  EXPECT_EQ(violations[0].field, "prompt");
  EXPECT_EQ(violations[1].field, "sampling.top_p");
  EXPECT_EQ(violations[1].description, "is 2; expected a number in (0, 1]");
  EXPECT_EQ(violations[2].field, "stopping.max_tokens");
  EXPECT_EQ(violations[3].field, "priority");
}

TEST(ValidateRequestTest, ATokenizedTextLeavesRoomForOneToken) {
  EXPECT_TRUE(ValidatePromptTokens(std::vector<int32_t>(99, 299), TestModel()).empty());
  EXPECT_EQ(ValidatePromptTokens(std::vector<int32_t>(100, 1), TestModel())[0].field, "text");
  EXPECT_EQ(ValidatePromptTokens({}, TestModel())[0].field, "text");
}

TEST(ValidateRequestTest, ATextWithATokenThatTheModelLacksIsRefused) {
  const std::vector<int32_t> ids = {1, 300};
  EXPECT_EQ(ValidatePromptTokens(ids, TestModel())[0].field, "text");
}

TEST(ValidateRequestTest, MinTokensLeavesATokenToChoose) {
  ExpectCases({
      {"only stop ids allowed",
       CHANGE(r.mutable_sampling()->add_allowed_token_ids(5);
              r.mutable_stopping()->set_min_tokens(1); r.mutable_stopping()->add_stop_token_ids(5)),
       "stopping.min_tokens"},
      {"another one allowed",
       CHANGE(r.mutable_sampling()->add_allowed_token_ids(5);
              r.mutable_sampling()->add_allowed_token_ids(6);
              r.mutable_stopping()->set_min_tokens(1); r.mutable_stopping()->add_stop_token_ids(5)),
       ""},
      {"without min_tokens",
       CHANGE(r.mutable_sampling()->add_allowed_token_ids(5);
              r.mutable_stopping()->add_stop_token_ids(5)),
       ""},
  });
}

TEST(ValidateRequestTest, EosIsNotTheOnlyChoiceUntilMinTokens) {
  ServedModel model = TestModel();
  model.config.eos_token_ids = {7};
  v1::GenerateRequest request = GoodRequest();
  request.mutable_sampling()->add_allowed_token_ids(7);
  request.mutable_stopping()->set_min_tokens(1);
  const FieldViolations found = ValidateGenerateRequest(request, model);
  ASSERT_EQ(found.size(), 1);
  EXPECT_EQ(found[0].field, "stopping.min_tokens");
  request.mutable_stopping()->set_ignore_eos(true);
  EXPECT_TRUE(ValidateGenerateRequest(request, model).empty());
}

TEST(ValidateRequestTest, OnlyTheServedModelIsFound) {
  EXPECT_TRUE(CheckModelName("", TestModel()).ok());
  EXPECT_TRUE(CheckModelName("tiny", TestModel()).ok());
  const absl::Status status = CheckModelName("huge", TestModel());
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("tiny"));
}

TEST(ValidateRequestTest, DetokenizedIdsAndTokenizedTextAreChecked) {
  v1::DetokenizeRequest detokenize;
  detokenize.add_token_ids(1);
  EXPECT_TRUE(ValidateDetokenizeRequest(detokenize, TestModel()).empty());
  detokenize.add_token_ids(300);
  EXPECT_EQ(ValidateDetokenizeRequest(detokenize, TestModel())[0].field, "token_ids[1]");
  v1::TokenizeRequest tokenize;
  EXPECT_TRUE(ValidateTokenizeRequest(tokenize, TestModel()).empty());
  tokenize.set_text(std::string(1001, 'x'));
  EXPECT_EQ(ValidateTokenizeRequest(tokenize, TestModel())[0].field, "text");
}

Request Convert(const v1::GenerateRequest& message, const ServedModel& model) {
  return ToRequest(message, model,
                   {.id = "req-1", .prompt_token_ids = {1, 2, 3}, .random_seed = 77});
}

TEST(RequestConversionTest, UnsetFieldsTakeTheModelsDefaultsThenTheDocumentedOnes) {
  ServedModel model = TestModel();
  model.defaults.temperature = 0.6;
  model.defaults.top_k = 1000;  // more than there are
  const Request request = Convert(GoodRequest(), model);
  EXPECT_FLOAT_EQ(request.sampling.temperature, 0.6f);
  EXPECT_EQ(request.sampling.top_k, 300);
  EXPECT_EQ(request.sampling.top_p, 1);
  EXPECT_EQ(request.sampling.min_p, 0);
  EXPECT_EQ(request.sampling.repetition_penalty, 1);
  EXPECT_EQ(request.sampling.num_top_logprobs, -1);
  EXPECT_EQ(request.sampling.seed, 77u);
  EXPECT_EQ(request.num_sequences, 1);
  EXPECT_EQ(request.stopping.max_tokens, 97);
  EXPECT_TRUE(request.output.skip_special_tokens);
}

TEST(RequestConversionTest, SetFieldsWinAlsoWhenTheyAreZero) {
  ServedModel model = TestModel();
  model.defaults.temperature = 0.6;
  model.defaults.top_k = 20;
  v1::GenerateRequest message = GoodRequest();
  message.mutable_sampling()->set_temperature(0);
  message.mutable_sampling()->set_top_k(0);
  message.mutable_sampling()->set_seed(0);
  message.mutable_sampling()->set_n(3);
  message.mutable_response()->set_logprobs(0);
  message.mutable_response()->set_skip_special_tokens(false);
  const Request request = Convert(message, model);
  EXPECT_EQ(request.sampling.temperature, 0);
  EXPECT_EQ(request.sampling.top_k, 0);
  EXPECT_EQ(request.sampling.seed, 0u);
  EXPECT_EQ(request.num_sequences, 3);
  EXPECT_EQ(request.sampling.num_top_logprobs, 0);
  EXPECT_FALSE(request.output.skip_special_tokens);
}

TEST(RequestConversionTest, TokenLimitsAreClippedToTheContext) {
  v1::GenerateRequest message = GoodRequest();
  message.mutable_stopping()->set_max_tokens(1000);
  message.mutable_stopping()->set_min_tokens(99);
  const Request request = Convert(message, TestModel());
  EXPECT_EQ(request.stopping.max_tokens, 97);
  EXPECT_EQ(request.stopping.min_tokens, 97);
}

TEST(RequestConversionTest, LogitBiasesAreSortedSoThatEqualRequestsAreEqual) {
  v1::GenerateRequest message = GoodRequest();
  for (const int32_t id : {9, 3, 200, 41})
    (*message.mutable_sampling()->mutable_logit_bias())[id] = 1;
  const Request request = Convert(message, TestModel());
  ASSERT_EQ(request.sampling.logit_bias.size(), 4u);
  EXPECT_TRUE(
      std::is_sorted(request.sampling.logit_bias.begin(), request.sampling.logit_bias.end()));
}

}  // namespace
}  // namespace moed
