#include "server/metrics/prometheus_metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <map>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"

namespace moed {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// "name{labels}" -> value, of every sample of a text in Prometheus' format; fails on a malformed
// line.
std::map<std::string, double> Parse(const std::string& text) {
  std::map<std::string, double> samples;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.empty() || line[0] == '#') continue;
    const size_t space = line.rfind(' ');
    if (space == std::string::npos) {
      ADD_FAILURE() << "malformed: " << line;
      continue;
    }
    EXPECT_TRUE(samples.emplace(line.substr(0, space), std::stod(line.substr(space + 1))).second)
        << "twice: " << line;
  }
  return samples;
}

// Layer 0 on two ranks: experts 0, 1 on rank 0 and 2, 3 on rank 1.
PrometheusMetrics::Params Params() {
  return {.model_name = "tales",
          .version = "1.2.3",
          .transport = "shm",
          .placement = ExpertPlacement::Linear(1, 4, 2),
          .moe_layers = {3},
          .block_size = 16,
          .num_blocks = 100};
}

class PrometheusMetricsTest : public ::testing::Test {
 protected:
  std::map<std::string, double> Samples() const { return Parse(metrics_.Text()); }

  PrometheusMetrics metrics_{Params()};
};

ServerStats TwoRanks() {
  ServerStats stats;
  stats.num_running_sequences = 3;
  stats.num_waiting_sequences = 7;
  stats.num_prompt_tokens = 50;
  stats.num_generated_tokens = 20;
  stats.prefix_cache_queries = 40;
  stats.prefix_cache_hits = 16;
  stats.num_preemptions = 1;
  stats.ranks = {{.num_blocks = 100, .num_free_blocks = 40},
                 {.num_blocks = 100, .num_free_blocks = 80}};
  return stats;
}

TEST_F(PrometheusMetricsTest, SaysWhatRunsBeforeTheFirstStep) {
  const auto samples = Samples();
  EXPECT_EQ(samples.at(R"(moed_build_info{model_name="tales",version="1.2.3"})"), 1);
  EXPECT_EQ(
      samples.at(
          R"(moed_cache_config_info{model_name="tales",block_size="16",num_gpu_blocks="100"})"),
      1);
  EXPECT_EQ(samples.at(R"(moed_rank_up{model_name="tales",ep_rank="1"})"), 0);
}

TEST_F(PrometheusMetricsTest, WhatMayHappenIsThereFromTheStart) {
  const auto samples = Samples();
  for (const char* reason : {"queue_full", "too_long", "draining"}) {
    EXPECT_EQ(samples.at(R"(moed_admission_rejected_total{model_name="tales",reason=")" +
                         std::string(reason) + "\"}"),
              0);
  }
  EXPECT_EQ(samples.at(R"(moed_requests_total{model_name="tales",api="moed.v1",)"
                       R"(code="UNAVAILABLE",finish_reason="error"})"),
            0);
}

TEST_F(PrometheusMetricsTest, AScrapeSetsGaugesAndRaisesCountersToTheServersTotals) {
  ServerStats stats = TwoRanks();
  metrics_.Refresh(stats, {});
  stats.num_generated_tokens = 25;
  metrics_.Refresh(stats, {});
  const auto samples = Samples();
  EXPECT_EQ(samples.at(R"(moed_requests_running{model_name="tales"})"), 3);
  EXPECT_EQ(samples.at(R"(moed_requests_waiting{model_name="tales"})"), 7);
  EXPECT_DOUBLE_EQ(samples.at(R"(moed_kv_cache_usage_ratio{model_name="tales"})"), 0.4);
  EXPECT_DOUBLE_EQ(samples.at(R"(moed_rank_kv_cache_usage_ratio{model_name="tales",ep_rank="0"})"),
                   0.6);
  EXPECT_EQ(samples.at(R"(moed_prompt_tokens_total{model_name="tales"})"), 50);
  EXPECT_EQ(samples.at(R"(moed_generation_tokens_total{model_name="tales"})"), 25);
  EXPECT_EQ(samples.at(R"(moed_prefix_cache_hits_total{model_name="tales"})"), 16);
  EXPECT_EQ(samples.at(R"(moed_preemptions_total{model_name="tales"})"), 1);
}

TEST_F(PrometheusMetricsTest, AScrapeSeesRestartsThatNoStepHasFollowed) {
  ServerStats stats = TwoRanks();
  stats.num_group_restarts = 9;
  metrics_.Refresh(stats, {});
  metrics_.Refresh(stats, {});
  EXPECT_EQ(Samples().at(R"(moed_group_restarts_total{model_name="tales"})"), 9);
}

TEST_F(PrometheusMetricsTest, AStepIsCountedUnderItsPhase) {
  metrics_.OnStep({.num_tokens = 8, .num_prefill_tokens = 8});
  metrics_.OnStep({.num_tokens = 8, .num_prefill_tokens = 0});
  metrics_.OnStep({.num_tokens = 8, .num_prefill_tokens = 5});
  metrics_.OnStep({.num_tokens = 3, .num_prefill_tokens = 0});
  const auto samples = Samples();
  EXPECT_EQ(samples.at(R"(moed_step_tokens_sum{model_name="tales",phase="prefill"})"), 8);
  EXPECT_EQ(samples.at(R"(moed_step_tokens_sum{model_name="tales",phase="decode"})"), 11);
  EXPECT_EQ(samples.at(R"(moed_step_duration_seconds_count{model_name="tales",phase="mixed"})"), 1);
}

TEST_F(PrometheusMetricsTest, TheExchangeOfEveryRankIsAddedUp) {
  std::vector<StepResult> results(2);
  results[0].num_expert_rows = 30;
  results[0].dispatch_bytes = 1000;
  results[0].times.dispatch_wait = 0.5;
  results[1].num_expert_rows = 10;
  results[1].dispatch_bytes = 500;
  results[1].combine_bytes = 7;
  metrics_.OnStep({.num_tokens = 4, .results = &results});
  const auto samples = Samples();
  EXPECT_EQ(
      samples.at(R"(moed_moe_rank_tokens_total{model_name="tales",ep_rank="0",phase="decode"})"),
      30);
  EXPECT_EQ(samples.at(R"(moed_moe_all2all_bytes_total{model_name="tales",op="dispatch"})"), 1500);
  EXPECT_EQ(samples.at(R"(moed_moe_all2all_bytes_total{model_name="tales",op="combine"})"), 7);
  EXPECT_EQ(
      samples.at(
          R"(moed_moe_all2all_wait_seconds_sum{model_name="tales",op="dispatch",phase="decode"})"),
      0.5);
  EXPECT_EQ(samples.at(R"(moed_moe_all2all_seconds_count{model_name="tales",op="combine",)"
                       R"(phase="decode",transport="shm"})"),
            2);
  EXPECT_DOUBLE_EQ(samples.at(R"(moed_moe_balancedness_ratio{model_name="tales",phase="decode"})"),
                   20.0 / 30);
}

TEST_F(PrometheusMetricsTest, ARequestThatEndsIsCountedWithItsTimes) {
  metrics_.OnRequestEnd({.result = "stop",
                         .num_generated_tokens = 11,
                         .queue_time = absl::Milliseconds(3),
                         .time_to_first_token = absl::Milliseconds(20),
                         .decode_time = absl::Seconds(1),
                         .total_time = absl::Seconds(2)});
  const auto samples = Samples();
  EXPECT_EQ(
      samples.at(
          R"(moed_requests_total{model_name="tales",api="moed.v1",code="OK",finish_reason="stop"})"),
      1);
  EXPECT_DOUBLE_EQ(
      samples.at(R"(moed_request_time_per_output_token_seconds_sum{model_name="tales"})"), 0.1);
  EXPECT_DOUBLE_EQ(samples.at(R"(moed_time_to_first_token_seconds_sum{model_name="tales"})"), 0.02);
  EXPECT_EQ(samples.at(R"(moed_time_to_first_token_seconds_bucket{model_name="tales",le="0.025"})"),
            1);
  EXPECT_EQ(samples.at(R"(moed_time_to_first_token_seconds_bucket{model_name="tales",le="0.01"})"),
            0);
}

TEST_F(PrometheusMetricsTest, ARequestWithoutATokenHasNoTimeToItsFirstToken) {
  metrics_.OnRequestEnd({.result = "cancelled", .total_time = absl::Seconds(1)});
  const auto samples = Samples();
  EXPECT_EQ(samples.at(R"(moed_time_to_first_token_seconds_count{model_name="tales"})"), 0);
  EXPECT_EQ(samples.at(R"(moed_e2e_request_latency_seconds_count{model_name="tales"})"), 1);
  EXPECT_THAT(metrics_.Text(), HasSubstr(R"(code="CANCELLED")"));
}

TEST_F(PrometheusMetricsTest, RefusalsAndRpcsAreCountedByReasonAndCode) {
  metrics_.OnRejected("queue_full");
  metrics_.OnRejected("queue_full");
  metrics_.OnRpcHandled({.service = "moed.v1.InferenceService",
                         .method = "Generate",
                         .code = absl::StatusCode::kInvalidArgument});
  const auto samples = Samples();
  EXPECT_EQ(samples.at(R"(moed_admission_rejected_total{model_name="tales",reason="queue_full"})"),
            2);
  EXPECT_THAT(metrics_.Text(), HasSubstr(R"(grpc_code="INVALID_ARGUMENT")"));
}

TEST_F(PrometheusMetricsTest, ARanksTimeIsSplitByStageAndItsWaitingShown) {
  std::vector<StepResult> results(2);
  results[1].times.experts = 0.25;
  results[1].times.combine_wait = 0.125;
  metrics_.OnStep({.num_tokens = 4, .num_prefill_tokens = 4, .results = &results});
  const auto samples = Samples();
  EXPECT_EQ(samples.at(R"(moed_step_stage_seconds_total{model_name="tales",ep_rank="1",)"
                       R"(phase="prefill",stage="experts"})"),
            0.25);
  EXPECT_EQ(samples.at(R"(moed_moe_rank_wait_seconds_total{model_name="tales",ep_rank="1",)"
                       R"(op="combine",phase="prefill"})"),
            0.125);
  EXPECT_EQ(samples.at(R"(moed_moe_expert_gemm_seconds_count{model_name="tales",phase="prefill"})"),
            2);
}

TEST_F(PrometheusMetricsTest, ImbalanceIsMeasuredPerLayerOverRanksAndOverExperts) {
  const std::vector<int64_t> tokens = {6, 2, 0, 0};  // rank 0 has all: 2; expert 0 has 3 times 2
  metrics_.OnStep({.num_tokens = 4, .tokens_per_expert = tokens});
  const auto samples = Samples();
  EXPECT_EQ(samples.at(R"(moed_moe_imbalance_ratio_sum{model_name="tales",scope="rank"})"), 2);
  EXPECT_EQ(samples.at(R"(moed_moe_imbalance_ratio_sum{model_name="tales",scope="expert"})"), 3);
}

TEST_F(PrometheusMetricsTest, TheBusiestExpertsOfALayerHaveTheirShares) {
  ServerStats stats = TwoRanks();
  stats.tokens_per_expert = {10, 60, 0, 30};
  metrics_.Refresh(stats, {});
  const auto samples = Samples();
  const auto share = [&](int top) {
    return samples.at(R"(moed_moe_top_expert_share{model_name="tales",layer="3",top=")" +
                      std::to_string(top) + "\"}");
  };
  EXPECT_DOUBLE_EQ(share(1), 0.6);
  EXPECT_DOUBLE_EQ(share(2), 0.3);
  EXPECT_DOUBLE_EQ(share(4), 0);
  EXPECT_DOUBLE_EQ(samples.at(R"(moed_moe_layer_balancedness_ratio{model_name="tales",layer="3"})"),
                   50.0 / 70);
}

TEST_F(PrometheusMetricsTest, RanksAreUpWhenTheirProcessesSaySo) {
  RankView view{.up = true, .weights_loaded_ratio = 0.5, .num_restarts = 2};
  view.info.kv_bytes = 4096;
  metrics_.Refresh({}, {view, {}});
  const auto samples = Samples();
  EXPECT_EQ(samples.at(R"(moed_rank_up{model_name="tales",ep_rank="0"})"), 1);
  EXPECT_EQ(samples.at(R"(moed_rank_up{model_name="tales",ep_rank="1"})"), 0);
  EXPECT_EQ(samples.at(R"(moed_weights_loaded_ratio{model_name="tales",ep_rank="0"})"), 0.5);
  EXPECT_EQ(samples.at(R"(moed_rank_memory_bytes{model_name="tales",ep_rank="0",kind="kv"})"),
            4096);
  EXPECT_EQ(samples.at(R"(moed_rank_restarts_total{model_name="tales",ep_rank="0"})"), 2);
}

TEST_F(PrometheusMetricsTest, ExactlyOneServingStateHolds) {
  metrics_.Refresh({.state = ServingState::kDraining}, {});
  const auto samples = Samples();
  EXPECT_EQ(samples.at(R"(moed_serving_state{model_name="tales",state="draining"})"), 1);
  EXPECT_EQ(samples.at(R"(moed_serving_state{model_name="tales",state="serving"})"), 0);
}

TEST_F(PrometheusMetricsTest, AStepThatHangsIsSeenWhileItDoes) {
  ServerStats stats;
  metrics_.Refresh(stats, {});
  EXPECT_EQ(Samples().at(R"(moed_step_in_progress_seconds{model_name="tales"})"), 0);
  stats.step_started = absl::Now() - absl::Seconds(30);
  metrics_.Refresh(stats, {});
  EXPECT_GE(Samples().at(R"(moed_step_in_progress_seconds{model_name="tales"})"), 30);
}

TEST_F(PrometheusMetricsTest, OpenStreamsAndTheirBacklogAreShown) {
  metrics_.RefreshStreams({.num_streams = 3, .num_pending_bytes = 4096});
  const auto samples = Samples();
  EXPECT_EQ(samples.at(R"(moed_grpc_streams{model_name="tales"})"), 3);
  EXPECT_EQ(samples.at(R"(moed_grpc_stream_backlog_bytes{model_name="tales"})"), 4096);
}

TEST_F(PrometheusMetricsTest, TheProcessItselfIsShown) {
  metrics_.Refresh({}, {});
  const auto samples = Samples();
  EXPECT_GT(samples.at(R"(process_resident_memory_bytes{model_name="tales"})"), 1 << 20);
  EXPECT_GT(samples.at(R"(process_start_time_seconds{model_name="tales"})"), 1.6e9);
  EXPECT_GE(samples.at(R"(process_open_fds{model_name="tales"})"), 3);
  EXPECT_GE(samples.at(R"(process_threads{model_name="tales"})"), 1);
}

TEST_F(PrometheusMetricsTest, TheNumberOfSeriesDoesNotGrowWithUse) {
  std::vector<StepResult> results(2);
  const auto use = [&] {
    for (int i = 0; i < 100; ++i) {
      metrics_.OnStep({.num_tokens = 4, .num_prefill_tokens = i % 5, .results = &results});
      metrics_.OnRequestEnd({.result = "stop", .num_generated_tokens = i});
      metrics_.Refresh(TwoRanks(), {{}, {}});
    }
  };
  const size_t at_start = Samples().size();
  use();
  EXPECT_EQ(Samples().size(), at_start);
}

TEST_F(PrometheusMetricsTest, ScrapesMayGoOnWhileStepsAndCallsReport) {
  std::atomic<bool> is_over = false;
  std::vector<std::thread> scrapers;
  for (int i = 0; i < 2; ++i) {
    scrapers.emplace_back([&] {
      ServerStats stats = TwoRanks();
      while (!is_over) {
        stats.tokens_per_expert = {1, 2, 3, 4};
        metrics_.Refresh(stats, {{}, {}});
        metrics_.RefreshStreams({});
        EXPECT_THAT(metrics_.Text(), HasSubstr("moed_step_tokens"));
      }
    });
  }
  std::thread caller([&] {
    while (!is_over) metrics_.OnRpcHandled({.service = "s", .method = "m"});
  });
  const std::vector<StepResult> results(2);
  const std::vector<int64_t> tokens = {1, 1, 1, 1};
  for (int i = 0; i < 200; ++i) {
    metrics_.OnStep({.num_tokens = 4,
                     .inter_token_seconds = {0.1, 0.2},
                     .results = &results,
                     .tokens_per_expert = tokens});
    metrics_.OnRequestEnd({.result = "stop", .num_generated_tokens = 3});
    metrics_.OnRejected("queue_full");
  }
  is_over = true;
  caller.join();
  for (std::thread& scraper : scrapers) scraper.join();
  EXPECT_EQ(Samples().at(R"(moed_inter_token_latency_seconds_count{model_name="tales"})"), 400);
}

TEST(VllmAliasesTest, TheNamesOfVllmAreThereOnlyWhenAskedFor) {
  PrometheusMetrics::Params params = Params();
  EXPECT_THAT(PrometheusMetrics(params).Text(), Not(HasSubstr("vllm:")));
  params.vllm_names = PrometheusMetrics::VllmNames::kOn;
  PrometheusMetrics metrics(params);
  metrics.Refresh(TwoRanks(), {});
  const auto samples = Parse(metrics.Text());
  EXPECT_EQ(samples.at(R"(vllm:num_requests_running{model_name="tales",engine="0"})"), 3);
  EXPECT_EQ(samples.at(R"(vllm:num_requests_waiting{model_name="tales",engine="0"})"), 7);
  EXPECT_DOUBLE_EQ(samples.at(R"(vllm:kv_cache_usage_perc{model_name="tales",engine="0"})"), 0.4);
  EXPECT_EQ(samples.at(R"(vllm:cache_config_info{model_name="tales",block_size="16",)"
                       R"(num_gpu_blocks="100",engine="0"})"),
            1);
}

TEST(VllmAliasesTest, RequestsThatDidNotSucceedAreOneWord) {
  PrometheusMetrics::Params params = Params();
  params.vllm_names = PrometheusMetrics::VllmNames::kOn;
  PrometheusMetrics metrics(params);
  for (const char* result : {"stop", "length", "cancelled", "deadline", "error"}) {
    metrics.OnRequestEnd({.result = result});
  }
  const auto samples = Parse(metrics.Text());
  const auto count = [&](const char* reason) {
    return samples.at(R"(vllm:request_success_total{model_name="tales",finished_reason=")" +
                      std::string(reason) + R"(",engine="0"})");
  };
  EXPECT_EQ(count("stop"), 1);
  EXPECT_EQ(count("length"), 1);
  EXPECT_EQ(count("abort"), 3);
}

}  // namespace
}  // namespace moed
