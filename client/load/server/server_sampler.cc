#include "client/load/server/server_sampler.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/load/server/metrics_text.h"
#include "client/rpc_error.h"

namespace moed::load {
namespace {

constexpr std::chrono::seconds kTimeout(5);

void CountReplicas(const v1::LayerExperts& layer, ExpertCounts& counts) {
  const auto num_ranks = static_cast<size_t>(counts.num_ranks);
  const auto num_experts = static_cast<size_t>(counts.num_experts);
  std::vector<double> shares(num_experts * num_ranks);
  std::vector<double> replicas(num_experts);
  const auto is_known = [&](const v1::ExpertSlot& slot) {
    return slot.expert_id() >= 0 && slot.expert_id() < counts.num_experts && slot.rank() >= 0 &&
           slot.rank() < counts.num_ranks;
  };
  for (const v1::ExpertSlot& slot : layer.slots()) {
    if (!is_known(slot)) continue;
    const auto expert = static_cast<size_t>(slot.expert_id());
    shares[expert * num_ranks + static_cast<size_t>(slot.rank())] += 1;
    replicas[expert] += 1;
  }
  for (size_t i = 0; i < shares.size(); ++i) shares[i] /= std::max(1.0, replicas[i / num_ranks]);
  counts.shares.push_back(std::move(shares));
}

}  // namespace

ExpertCounts ToExpertCounts(const v1::GetExpertsResponse& response) {
  ExpertCounts counts{.num_experts = std::max(0, response.num_experts()),
                      .num_ranks = std::max(1, response.rows_per_rank_size())};
  for (const v1::LayerExperts& layer : response.layers()) {
    counts.layers.push_back(layer.layer());
    counts.rows.emplace_back(layer.tokens_per_expert().begin(), layer.tokens_per_expert().end());
    counts.rows.back().resize(static_cast<size_t>(counts.num_experts));
    CountReplicas(layer, counts);
  }
  return counts;
}

ServerSampler::ServerSampler(const Params& params)
    : params_(params), stub_(v1::AdminService::NewStub(params.connection.channel())) {
  Sample(recording_.experts_before);
  thread_ = std::thread([this] { Run(); });
}

ServerSampler::~ServerSampler() {
  if (thread_.joinable()) Finish();
}

ServerRecording ServerSampler::Finish() {
  stop_.Notify();
  thread_.join();
  Sample(recording_.experts_after);
  return std::move(recording_);
}

void ServerSampler::Run() {
  ExpertCounts ignored;
  while (!stop_.WaitForNotificationWithTimeout(params_.period)) Sample(ignored);
}

void ServerSampler::Sample(ExpertCounts& counts) {
  ServerSample sample{.seconds = static_cast<double>(params_.clock.Now()) * 1e-9};
  AskStatus(sample);
  AskExperts(sample, counts);
  if (!params_.metrics_address.empty()) AskMetrics(sample);
  recording_.samples.push_back(std::move(sample));
}

void ServerSampler::AskStatus(ServerSample& sample) {
  grpc::ClientContext context;
  params_.connection.Authorize(context);
  context.set_deadline(std::chrono::system_clock::now() + kTimeout);
  v1::GetStatusResponse response;
  const grpc::Status status = stub_->GetStatus(&context, {}, &response);
  if (!status.ok()) return Complain(absl::StrCat("GetStatus: ", FormatRpcError(status)));
  sample.has_status = true;
  sample.num_running = response.num_running_sequences();
  sample.num_waiting = response.num_waiting_sequences();
  sample.num_generated_tokens = response.num_generated_tokens();
  sample.num_steps = response.num_steps();
  sample.num_preemptions = response.num_preemptions();
  sample.prefix_cache_queries = response.prefix_cache_queries();
  sample.prefix_cache_hits = response.prefix_cache_hits();
  double num_blocks = 0;
  double num_free = 0;
  for (const v1::RankStatus& rank : response.ranks()) {
    num_blocks += rank.num_blocks();
    num_free += rank.num_free_blocks();
  }
  sample.kv_used_ratio = num_blocks > 0 ? 1 - num_free / num_blocks : 0;
}

void ServerSampler::AskExperts(ServerSample& sample, ExpertCounts& counts) {
  grpc::ClientContext context;
  params_.connection.Authorize(context);
  context.set_deadline(std::chrono::system_clock::now() + kTimeout);
  v1::GetExpertsResponse response;
  const grpc::Status status = stub_->GetExperts(&context, {}, &response);
  if (!status.ok()) return Complain(absl::StrCat("GetExperts: ", FormatRpcError(status)));
  sample.has_experts = true;
  sample.rows_per_rank = {response.rows_per_rank().begin(), response.rows_per_rank().end()};
  sample.dispatch_bytes = response.dispatch_bytes();
  sample.combine_bytes = response.combine_bytes();
  counts = ToExpertCounts(response);
  const LayerBalancedness since = MeanOverLayers(Since(last_counts_, counts));
  sample.num_new_rows = since.num_rows;
  sample.balancedness = since.of_ranks;
  sample.expert_balancedness = since.of_experts;
  last_counts_ = counts;
}

void ServerSampler::AskMetrics(ServerSample& sample) {
  const absl::StatusOr<std::string> text = FetchMetrics(params_.metrics_address);
  if (!text.ok()) return Complain(std::string(text.status().message()));
  sample.has_metrics = true;
  sample.step_seconds = SumOfMetric(*text, "moed_step_duration_seconds_sum");
  sample.exchange_seconds = SumOfMetric(*text, "moed_moe_all2all_seconds_sum");
  sample.wait_seconds = SumOfMetric(*text, "moed_moe_all2all_wait_seconds_sum");
}

void ServerSampler::Complain(const std::string& problem) {
  if (recording_.problem.empty()) recording_.problem = problem;
}

}  // namespace moed::load
