#include "server/metrics/prometheus_metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <sstream>
#include <string>
#include <vector>

namespace moed {
namespace {

using ::testing::HasSubstr;

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

class PrometheusMetricsTest : public ::testing::Test {
 protected:
  std::map<std::string, double> Samples() const { return Parse(metrics_.Text()); }

  PrometheusMetrics metrics_{{.model_name = "tales",
                              .version = "1.2.3",
                              .num_ranks = 2,
                              .block_size = 16,
                              .num_blocks = 100}};
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

TEST_F(PrometheusMetricsTest, AStepSetsGaugesAndRaisesCountersToTheServersTotals) {
  ServerStats stats = TwoRanks();
  metrics_.OnStep({}, stats);
  stats.num_generated_tokens = 25;
  metrics_.OnStep({}, stats);
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
  metrics_.Refresh(stats);
  metrics_.Refresh(stats);
  EXPECT_EQ(Samples().at(R"(moed_group_restarts_total{model_name="tales"})"), 9);
}

TEST_F(PrometheusMetricsTest, AStepIsCountedUnderItsPhase) {
  metrics_.OnStep({.num_tokens = 8, .num_prefill_tokens = 8}, {});
  metrics_.OnStep({.num_tokens = 8, .num_prefill_tokens = 0}, {});
  metrics_.OnStep({.num_tokens = 8, .num_prefill_tokens = 5}, {});
  metrics_.OnStep({.num_tokens = 3, .num_prefill_tokens = 0}, {});
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
  metrics_.OnStep({.num_tokens = 4, .results = &results}, {});
  const auto samples = Samples();
  EXPECT_EQ(
      samples.at(R"(moed_moe_rank_tokens_total{model_name="tales",ep_rank="0",phase="decode"})"),
      30);
  EXPECT_EQ(samples.at(R"(moed_moe_all2all_bytes_total{model_name="tales",op="dispatch"})"), 1500);
  EXPECT_EQ(samples.at(R"(moed_moe_all2all_bytes_total{model_name="tales",op="combine"})"), 7);
  EXPECT_EQ(samples.at(R"(moed_moe_all2all_wait_seconds_sum{model_name="tales",op="dispatch"})"),
            0.5);
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

TEST_F(PrometheusMetricsTest, RanksAreUpWhileTheyServeOrDrain) {
  const std::string rank_up = R"(moed_rank_up{model_name="tales",ep_rank="0"})";
  metrics_.OnStateChange(ServingState::kServing);
  EXPECT_EQ(Samples().at(rank_up), 1);
  metrics_.OnStateChange(ServingState::kRecovering);
  EXPECT_EQ(Samples().at(rank_up), 0);
}

}  // namespace
}  // namespace moed
