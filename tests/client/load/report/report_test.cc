#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "client/load/progress_line.h"
#include "client/load/rate_search.h"
#include "client/load/report/compare.h"
#include "client/load/report/result_json.h"
#include "client/load/report/result_text.h"
#include "client/load/report/run_summary.h"
#include "client/load/server/metrics_text.h"
#include "client/load/stats/random.h"

namespace moed::load {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

constexpr int64_t kMs = 1'000'000;

/// A request of two tokens with the given times in ms; TPOT is last - first.
RequestRecord Record(int64_t intended, int64_t sent, int64_t first, int64_t last) {
  return {.intended_ns = intended * kMs,
          .eligible_ns = intended * kMs,
          .sent_ns = sent * kMs,
          .first_token_ns = first * kMs,
          .last_token_ns = last * kMs,
          .end_ns = last * kMs,
          .num_prompt_tokens = 10,
          .num_output_tokens = 2,
          .outcome = RequestOutcome::kCompleted};
}

RunResult ResultOf(const std::vector<RequestRecord>& records, int64_t warmup_ms = 0) {
  RunResult result({.warmup_ns = warmup_ms * kMs});
  for (RequestRecord record : records) {
    const RequestRecord whole = record;
    record.first_token_ns = record.last_token_ns = 0;
    result.recording.OnTokens(record, whole.first_token_ns, 1);
    record.first_token_ns = record.last_token_ns = whole.first_token_ns;
    result.recording.OnTokens(record, whole.last_token_ns, 1);
    result.recording.OnEnd(whole, {});
    result.sending_seconds =
        std::max(result.sending_seconds, static_cast<double>(whole.sent_ns) * 1e-9);
  }
  return result;
}

/// One request every 20 ms for four seconds; first token after `ttft_ms` and some noise.
RunResult SteadyRun(double ttft_ms, uint64_t seed) {
  Random random(seed, 0);
  std::vector<RequestRecord> records;
  for (int64_t at = 0; at < 4000; at += 20) {
    const auto first = at + static_cast<int64_t>(ttft_ms + 10 * random.Uniform());
    records.push_back(Record(at, at, first, first + 8));
  }
  return ResultOf(records);
}

nlohmann::ordered_json JsonOf(const RunSummary& summary) {
  return ToJson(summary, {.model = "m", .load = {{"kind", "open loop"}}}, {});
}

TEST(RunSummaryTest, LatenciesAreThoseOfVllmFromTheIntendedTime) {
  const RunSummary summary =
      Summarize(ResultOf({Record(0, 30, 100, 120), Record(1000, 1000, 1050, 1090)}), {}, {});
  EXPECT_NEAR(summary.figures.ttft.Mean(), 75 * kMs, 1);
  EXPECT_NEAR(summary.figures.ttft_from_send.Mean(), 60 * kMs, 1);
  EXPECT_NEAR(summary.figures.tpot.Mean(), 30 * kMs, 1);  // (e2el - ttft) / (tokens - 1)
  EXPECT_NEAR(summary.itl.Mean(), 30 * kMs, 1);
  EXPECT_NEAR(summary.figures.e2el.Mean(), 105 * kMs, 1);
  EXPECT_NEAR(summary.duration_s, 1.09, 1e-9);
  EXPECT_NEAR(summary.request_throughput, 2 / 1.09, 1e-9);
  EXPECT_NEAR(summary.output_throughput, 4 / 1.09, 1e-9);
}

TEST(RunSummaryTest, GoodRequestsKeepEveryLimit) {
  const std::vector<RequestRecord> records = {Record(0, 0, 50, 60), Record(0, 0, 150, 160),
                                              Record(0, 0, 50, 100)};
  const RunSummary summary = Summarize(ResultOf(records), {.ttft_ms = 100, .tpot_ms = 20}, {});
  EXPECT_EQ(summary.figures.num_good, 1);
  EXPECT_NEAR(Attainment(summary), 1.0 / 3, 1e-9);
  EXPECT_NEAR(summary.request_goodput, 1 / 0.16, 1e-6);
}

TEST(RunSummaryTest, FailedRequestsAreNotGood) {
  std::vector<RequestRecord> records = {Record(0, 0, 50, 60), Record(0, 0, 50, 60)};
  records[1].outcome = RequestOutcome::kFailed;
  const RunSummary summary = Summarize(ResultOf(records), {.ttft_ms = 100}, {});
  EXPECT_EQ(summary.num_failed, 1);
  EXPECT_NEAR(Attainment(summary), 0.5, 1e-9);
}

TEST(RunSummaryTest, TheWarmUpDoesNotCount) {
  const RunSummary summary =
      Summarize(ResultOf({Record(0, 0, 900, 950), Record(1000, 1000, 1010, 1020)}, 1000), {}, {});
  EXPECT_EQ(summary.figures.num_completed, 1);
  EXPECT_NEAR(summary.figures.ttft.Mean(), 10 * kMs, 1);
  EXPECT_NEAR(summary.duration_s, 0.02, 1e-9);
}

TEST(RunSummaryTest, AClientThatSendsLateSpoilsTheRun) {
  EXPECT_THAT(Summarize(SteadyRun(50, 1), {}, {}).invalid_reasons, IsEmpty());
  const RunSummary late = Summarize(ResultOf({Record(0, 40, 90, 100)}), {}, {});
  EXPECT_THAT(late.invalid_reasons, Contains(HasSubstr("sent late")));
  RunResult busy = SteadyRun(50, 1);
  busy.worker_cpu_share = 0.95;
  EXPECT_THAT(Summarize(busy, {}, {}).invalid_reasons, Contains(HasSubstr("was busy")));
}

TEST(RunSummaryTest, WaitingForAFreePlaceIsNotTheClientsLag) {
  RequestRecord record = Record(0, 500, 550, 560);
  record.eligible_ns = 500 * kMs;
  const RunSummary summary = Summarize(ResultOf({record}), {}, {});
  EXPECT_THAT(summary.invalid_reasons, IsEmpty());
  EXPECT_NEAR(summary.figures.ttft.Mean(), 550 * kMs, 1);
}

TEST(RunSummaryTest, TheSteadyStateStartsWhenTheLoadIsThere) {
  // One request in flight at first, ten from second 2 on.
  std::vector<RequestRecord> records = {Record(0, 0, 5, 5990)};
  for (int64_t i = 0; i < 9; ++i) records.push_back(Record(2000 + i, 2000 + i, 2100, 5990));
  const RunSummary summary = [&] {
    RunResult result = ResultOf(records);
    result.sending_seconds = 6;
    return Summarize(result, {}, {});
  }();
  EXPECT_DOUBLE_EQ(summary.steady.begin_s, 3);
  EXPECT_DOUBLE_EQ(summary.steady.end_s, 6);
  EXPECT_EQ(summary.max_concurrent_requests, 10);
}

TEST(RunSummaryTest, SlowReadersAreLeftOutOfTheLatencies) {
  std::vector<RequestRecord> records = {Record(0, 0, 50, 60), Record(0, 0, 900, 990)};
  records[1].slow_reader = true;
  const RunSummary summary = Summarize(ResultOf(records), {}, {});
  EXPECT_EQ(summary.figures.num_completed, 2);
  EXPECT_EQ(summary.num_slow_readers, 1);
  EXPECT_NEAR(summary.figures.ttft.Mean(), 50 * kMs, 1);
  EXPECT_NEAR(summary.itl.Mean(), 10 * kMs, 1);
}

TEST(RunSummaryTest, CombinedRunsCountTogetherAndKeepOneSampleEach) {
  RunSummary one = Summarize(SteadyRun(50, 1), {}, {});
  const RunSummary two = Summarize(SteadyRun(60, 2), {}, {});
  one.max_output_tokens_per_s = 1e6;
  one.num_cut_prompts = 3;
  const RunSummary both = Combine({one, two});
  EXPECT_EQ(both.max_output_tokens_per_s, 1e6);
  EXPECT_EQ(both.num_cut_prompts, two.num_cut_prompts + 3);
  EXPECT_EQ(both.figures.num_completed, 400);
  EXPECT_NEAR(both.duration_s, one.duration_s + two.duration_s, 1e-9);
  EXPECT_THAT(both.samples.at("mean_ttft_ms"), SizeIs(2));
  EXPECT_NEAR(both.figures.ttft.Mean(), (one.figures.ttft.Mean() + two.figures.ttft.Mean()) / 2, 1);
}

TEST(RunRecordingTest, PartsMergeWithTheirErrors) {
  RunRecording one({}), two({});
  RequestRecord record = Record(0, 0, 5, 6);
  record.outcome = RequestOutcome::kFailed;
  record.error = one.ErrorIndex("first");
  one.OnEnd(record, {});
  record.error = two.ErrorIndex("second");
  two.OnEnd(record, {});
  one.Merge(two);
  ASSERT_THAT(one.records(), SizeIs(2));
  EXPECT_EQ(one.errors()[static_cast<size_t>(one.records()[1].error)], "second");
}

TEST(RunRecordingTest, ManyDifferentErrorsShareOneName) {
  RunRecording recording({});
  for (int i = 0; i < 1000; ++i) recording.ErrorIndex("error " + std::to_string(i));
  EXPECT_THAT(recording.errors(), SizeIs(64));
  EXPECT_EQ(recording.errors().back(), "other errors");
}

TEST(ResultJsonTest, HasTheKeysOfVllmBenchServe) {
  const auto json = JsonOf(Summarize(SteadyRun(50, 1), {}, {}));
  for (const char* key : {"date",
                          "backend",
                          "label",
                          "model_id",
                          "tokenizer_id",
                          "num_prompts",
                          "request_rate",
                          "burstiness",
                          "max_concurrency",
                          "duration",
                          "completed",
                          "failed",
                          "total_input_tokens",
                          "total_output_tokens",
                          "request_throughput",
                          "request_goodput",
                          "output_throughput",
                          "total_token_throughput",
                          "max_output_tokens_per_s",
                          "max_concurrent_requests"}) {
    EXPECT_TRUE(json.contains(key)) << key;
  }
  for (const char* latency : {"ttft", "tpot", "itl", "e2el"}) {
    for (const char* figure : {"mean", "median", "std", "p50", "p90", "p95", "p99", "p99.9"}) {
      EXPECT_TRUE(json.contains(std::string(figure) + "_" + latency + "_ms")) << figure << latency;
    }
  }
  EXPECT_EQ(json["request_rate"], "inf");
  EXPECT_TRUE(json["moed"]["valid"].get<bool>());
}

TEST(ResultTextTest, TheTableTheCsvAndThePageShowTheRun) {
  const auto json = JsonOf(Summarize(SteadyRun(50, 1), {}, {}));
  EXPECT_THAT(FormatResult(json, Charset::kAscii),
              testing::AllOf(HasSubstr("200 completed"), HasSubstr("time to first token"),
                             Not(HasSubstr("NOT VALID"))));
  const std::string csv = FormatTimelineCsv(json);
  EXPECT_EQ(std::count(csv.begin(), csv.end(), '\n'), 1 + std::ssize(json["moed"]["timeline"]));
  EXPECT_THAT(csv, HasSubstr("\n0,50,"));
  const std::string html = FormatHtml(json);
  EXPECT_THAT(html, testing::AllOf(HasSubstr("\"completed\":200"), HasSubstr("lineChart"),
                                   Not(HasSubstr("/*RESULT*/")), Not(HasSubstr("https://"))));
}

TEST(ResultTextTest, WhatTheServerSaysCannotLeaveThePagesData) {
  auto json = JsonOf(Summarize(SteadyRun(50, 1), {}, {}));
  json["moed"]["errors"] = {{"</script><script>alert(1)</script>", 1}};
  EXPECT_THAT(FormatHtml(json), Not(HasSubstr("<script>alert")));
}

TEST(CompareTest, TwoRunsOfTheSameAreTheSame) {
  const nlohmann::json a = JsonOf(Summarize(SteadyRun(50, 1), {}, {}));
  const nlohmann::json b = JsonOf(Summarize(SteadyRun(50, 2), {}, {}));
  const auto comparison = Compare(a, b, {});
  ASSERT_TRUE(comparison.ok()) << comparison.status();
  EXPECT_FALSE(comparison->HasWorse()) << FormatComparison(*comparison);
  EXPECT_THAT(comparison->warnings, IsEmpty());
}

TEST(CompareTest, ASlowerServerIsWorseAndAFasterOneBetter) {
  const nlohmann::json fast = JsonOf(Summarize(SteadyRun(50, 1), {}, {}));
  const nlohmann::json slow = JsonOf(Summarize(SteadyRun(60, 2), {}, {}));
  const auto worse = Compare(fast, slow, {}).value();
  EXPECT_TRUE(worse.HasWorse());
  const auto better = Compare(slow, fast, {}).value();
  EXPECT_FALSE(better.HasWorse());
  const auto of = [](const Comparison& comparison, const std::string& name) {
    for (const FigureChange& figure : comparison.figures) {
      if (figure.name == name) return figure;
    }
    return FigureChange{};
  };
  EXPECT_EQ(of(worse, "mean_ttft_ms").verdict, Verdict::kWorse);
  EXPECT_EQ(of(better, "mean_ttft_ms").verdict, Verdict::kBetter);
  EXPECT_EQ(of(worse, "mean_tpot_ms").verdict, Verdict::kUnchanged);
  EXPECT_NEAR(of(worse, "mean_ttft_ms").change, 10.0 / 54.5, 0.03);
}

TEST(CompareTest, AChangeBelowTheLeastThatMattersDoesNotMatter) {
  const nlohmann::json fast = JsonOf(Summarize(SteadyRun(50, 1), {}, {}));
  const nlohmann::json slow = JsonOf(Summarize(SteadyRun(60, 2), {}, {}));
  EXPECT_FALSE(Compare(fast, slow, {.min_change = 0.5}).value().HasWorse());
}

TEST(CompareTest, WarnsOfDifferentLoadsAndSpoiltRuns) {
  nlohmann::json a = JsonOf(Summarize(SteadyRun(50, 1), {}, {}));
  nlohmann::json b = a;
  b["moed"]["valid"] = false;
  b["moed"]["load"]["kind"] = "trace";
  const auto comparison = Compare(a, b, {}).value();
  EXPECT_THAT(comparison.warnings, SizeIs(2));
}

TEST(CompareTest, RefusesWhatIsNoResult) {
  const nlohmann::json a = JsonOf(Summarize(SteadyRun(50, 1), {}, {}));
  for (const char* text : {"{}", "[]", "5", "{\"moed\": {\"samples\": {\"figures\": 5}}}",
                           "{\"moed\": {\"samples\": {\"figures\": {\"mean_ttft_ms\": {}}}}}"}) {
    EXPECT_FALSE(Compare(a, nlohmann::json::parse(text), {}).ok()) << text;
  }
}

double Found(RateSearch::Params params, double limit) {
  RateSearch search(params);
  while (const auto level = search.Next()) {
    search.Report(*level <= limit ? RateSearch::Trial::kMet : RateSearch::Trial::kMissed);
  }
  return search.best().value_or(0);
}

TEST(RateSearchTest, FindsTheHighestLevelWithinItsTolerance) {
  for (const double limit : {0.3, 1.0, 7.7, 123.0}) {
    const double found = Found({.start = 1, .tolerance = 0.05}, limit);
    EXPECT_LE(found, limit);
    EXPECT_GE(found, limit / 1.05);
  }
}

TEST(RateSearchTest, FindsTheExactCount) {
  for (const double limit : {1.0, 2.0, 7.0, 100.0}) {
    EXPECT_EQ(
        Found({.start = 4, .tolerance = 0.001, .max_trials = 40, .whole_numbers = true}, limit),
        limit);
  }
  EXPECT_EQ(Found({.start = 4, .whole_numbers = true}, 0.5), 0);
}

TEST(RateSearchTest, EndsAfterItsTrialsWhenNothingEverFails) {
  int num_trials = 0;
  RateSearch search({.start = 1, .max_trials = 5});
  for (; search.Next().has_value(); ++num_trials) search.Report(RateSearch::Trial::kMet);
  EXPECT_EQ(num_trials, 5);
  EXPECT_EQ(search.best(), 16);
}

TEST(MetricsTextTest, SumsTheSamplesOfOneNameOverTheirLabels) {
  const char* text =
      "# HELP a_sum of a\na_sum{op=\"x\"} 1.5\na_sum{op=\"} y\"} 2 1700000000\na_sum_b 100\n"
      "a_summary 7\na_sum 0.25\nbroken";
  EXPECT_DOUBLE_EQ(SumOfMetric(text, "a_sum"), 3.75);
  EXPECT_DOUBLE_EQ(SumOfMetric(text, "nothing"), 0);
}

TEST(ServerJsonTest, ShowsWhatChangedDuringTheRun) {
  ServerRecording recording;
  recording.samples.push_back({.seconds = 0,
                               .has_status = true,
                               .num_generated_tokens = 100,
                               .has_experts = true,
                               .rows_per_rank = {10, 10},
                               .has_metrics = true,
                               .step_seconds = 5,
                               .exchange_seconds = 1});
  recording.samples.push_back({.seconds = 2,
                               .has_status = true,
                               .num_generated_tokens = 300,
                               .has_experts = true,
                               .rows_per_rank = {40, 20},
                               .has_metrics = true,
                               .step_seconds = 6,
                               .exchange_seconds = 1.5});
  recording.experts_before = {
      .num_experts = 2, .layers = {3}, .rows = {{5, 5}}, .shares = {{1, 0, 0, 1}}, .num_ranks = 2};
  recording.experts_after = recording.experts_before;
  recording.experts_after.rows = {{35, 15}};
  const auto json = ToJson(recording);
  const auto& run = json["whole_run"];
  EXPECT_DOUBLE_EQ(run["generated_tokens_per_s"], 100);
  EXPECT_DOUBLE_EQ(run["rows_per_rank"][0], 30);
  EXPECT_DOUBLE_EQ(run["exchange_share"], 0.25);  // of two ranks
  EXPECT_EQ(json["experts"]["layers"][0]["rows_per_expert"], nlohmann::json({30, 10}));
  EXPECT_DOUBLE_EQ(json["experts"]["mean_layer_balancedness"], 20.0 / 30);
}

TEST(ProgressLineTest, ShowsWhatChangedSinceTheLastOne) {
  LiveCounts live;
  ProgressLine progress(live);
  live.num_sent = 10;
  live.num_ended = 4;
  live.num_tokens = 200;
  live.num_first_tokens = 2;
  live.ttft_sum_ns = 60 * kMs;
  EXPECT_THAT(progress.At(2), HasSubstr("6 in flight, 0 failed  2.0 requests/s  100 tokens/s  "
                                        "TTFT 30.00 ms"));
  EXPECT_THAT(progress.At(3), HasSubstr("0 tokens/s  TTFT -"));
}

}  // namespace
}  // namespace moed::load
