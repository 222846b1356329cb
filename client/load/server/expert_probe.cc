#include "client/load/server/expert_probe.h"

#include <chrono>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/load/server/server_sampler.h"
#include "client/rpc_error.h"
#include "config/base/status_macros.h"
#include "moed/v1/inference.grpc.pb.h"

namespace moed::load {
namespace {

constexpr std::chrono::seconds kTimeout(60);

absl::Status Failed(const char* call, const grpc::Status& status) {
  return absl::UnavailableError(
      absl::StrCat("measuring expert load with ", call, ": ", FormatRpcError(status)));
}

/// One measurement after the other, by one thread.
class Probe {
 public:
  Probe(const Connection& connection, const Connection& admin)
      : connection_(connection),
        inference_(v1::InferenceService::NewStub(connection.channel())),
        admin_(v1::AdminService::NewStub(admin.channel())) {}

  absl::StatusOr<ExpertCounts> Counts() {
    grpc::ClientContext context;
    Prepare(context);
    v1::GetExpertsResponse response;
    const grpc::Status status = admin_->GetExperts(&context, {}, &response);
    if (!status.ok()) return Failed("GetExperts", status);
    return ToExpertCounts(response);
  }

  absl::Status Send(const std::vector<int32_t>& topic, int64_t num_tokens) {
    v1::GenerateRequest request;
    for (int64_t i = 0; i < num_tokens; ++i) {
      request.mutable_token_ids()->add_ids(topic[static_cast<size_t>(i) % topic.size()]);
    }
    request.mutable_stopping()->set_max_tokens(1);
    request.mutable_stopping()->set_ignore_eos(true);
    request.mutable_response()->set_skip_text(true);
    request.mutable_sampling()->set_temperature(0);
    request.set_bypass_prefix_cache(true);
    grpc::ClientContext context;
    Prepare(context);
    const auto reader = inference_->Generate(&context, request);
    v1::GenerateResponse event;
    while (reader->Read(&event)) {
    }
    const grpc::Status status = reader->Finish();
    return status.ok() ? absl::OkStatus() : Failed("Generate", status);
  }

 private:
  void Prepare(grpc::ClientContext& context) {
    connection_.Authorize(context);
    context.set_deadline(std::chrono::system_clock::now() + kTimeout);
  }

  const Connection& connection_;
  const std::unique_ptr<v1::InferenceService::Stub> inference_;
  const std::unique_ptr<v1::AdminService::Stub> admin_;
};

// Rows per token, by layer and rank or by layer and expert.
std::vector<double> GroupRows(const ExpertCounts& counts, GroupKind kind, int64_t num_tokens) {
  std::vector<double> rows;
  for (size_t layer = 0; layer < counts.rows.size(); ++layer) {
    const std::vector<double> of_layer =
        kind == GroupKind::kRanks
            ? RowsPerRank(counts, layer)
            : std::vector<double>(counts.rows[layer].begin(), counts.rows[layer].end());
    rows.insert(rows.end(), of_layer.begin(), of_layer.end());
  }
  for (double& value : rows) value /= static_cast<double>(num_tokens);
  return rows;
}

bool HasRows(const ExpertCounts& counts) {
  for (const std::vector<int64_t>& layer : counts.rows) {
    if (std::accumulate(layer.begin(), layer.end(), int64_t{0}) > 0) return true;
  }
  return false;
}

// The counts of a prompt; the server may show them a moment after the answer.
absl::StatusOr<ExpertCounts> Measure(Probe& probe, const std::vector<int32_t>& topic,
                                     int64_t num_tokens) {
  MOED_ASSIGN_OR_RETURN(const ExpertCounts before, probe.Counts());
  MOED_RETURN_IF_ERROR(probe.Send(topic, num_tokens));
  for (int attempt = 0; attempt < 50; ++attempt) {
    MOED_ASSIGN_OR_RETURN(const ExpertCounts after, probe.Counts());
    ExpertCounts counts = Since(before, after);
    if (HasRows(counts)) return counts;
    absl::SleepFor(absl::Milliseconds(10));
  }
  return absl::FailedPreconditionError(
      "measuring expert load: the server's GetExperts counts no rows of a prompt that it answered");
}

}  // namespace

absl::StatusOr<ProbedLoads> ProbeTopics(const ProbeParams& params) {
  Probe probe(params.connection, params.admin);
  ProbedLoads probed;
  for (const std::vector<int32_t>& topic : params.topics) {
    if (params.is_stopped()) return absl::CancelledError("interrupted while measuring expert load");
    MOED_ASSIGN_OR_RETURN(const ExpertCounts counts, Measure(probe, topic, params.num_tokens));
    probed.kind = counts.num_ranks > 1 ? GroupKind::kRanks : GroupKind::kExperts;
    probed.loads.num_layers = static_cast<int>(counts.rows.size());
    probed.loads.num_groups =
        probed.kind == GroupKind::kRanks ? counts.num_ranks : counts.num_experts;
    probed.loads.of_prompt.push_back(GroupRows(counts, probed.kind, params.num_tokens));
  }
  return probed;
}

}  // namespace moed::load
