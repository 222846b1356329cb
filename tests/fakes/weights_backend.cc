#include "tests/fakes/weights_backend.h"

#include <cstdlib>
#include <cstring>
#include <utility>

#include "config/base/check.h"
#include "config/base/status_macros.h"
#include "engine/weights/tensor_source.h"

namespace moed {

using namespace kernels;  // NOLINT: every signature below is of that namespace.

namespace {

[[noreturn]] void NoOps(const char* op) { CheckFailed(op, __FILE__, __LINE__); }

}  // namespace

absl::StatusOr<Buffer> WeightsBackend::Allocate(int64_t bytes) {
  allocated_bytes_ += bytes;
  return Buffer(this, std::calloc(1, bytes), bytes);
}

void WeightsBackend::Free(void* data, int64_t bytes) {
  allocated_bytes_ -= bytes;
  std::free(data);
}

void WeightsBackend::CopyToDevice(void* device, const void* host, int64_t bytes) {
  std::memcpy(device, host, bytes);
}

void WeightsBackend::CopyToHost(void* host, const void* device, int64_t bytes) {
  std::memcpy(host, device, bytes);
}

absl::StatusOr<std::unique_ptr<LinearWeights>> WeightsBackend::LoadLinear(
    std::span<const HostMatrix> stacked, std::span<const float> bias, WeightFormat format) {
  MOED_RETURN_IF_ERROR(std::exchange(next_load_, absl::OkStatus()));
  auto linear = std::make_unique<FakeLinear>();
  linear->cols = stacked[0].cols;
  linear->format = format;
  for (const HostMatrix& matrix : stacked) {
    MOED_CHECK(matrix.cols == linear->cols);
    linear->rows += matrix.rows;
    const std::vector<float> values = ToFloat(matrix);
    linear->values.insert(linear->values.end(), values.begin(), values.end());
  }
  linear->bias.assign(bias.begin(), bias.end());
  MOED_CHECK(bias.empty() || static_cast<int64_t>(bias.size()) == linear->rows);
  return linear;
}

absl::StatusOr<std::unique_ptr<ExpertWeights>> WeightsBackend::LoadExperts(
    std::span<const ExpertSource> experts, WeightFormat format) {
  MOED_RETURN_IF_ERROR(std::exchange(next_load_, absl::OkStatus()));
  auto loaded = std::make_unique<FakeExperts>();
  loaded->intermediate = experts[0].gate.rows;
  loaded->format = format;
  loaded->hidden = experts[0].gate.cols;
  for (const ExpertSource& expert : experts) {
    MOED_CHECK(expert.gate.rows == loaded->intermediate && expert.gate.cols == loaded->hidden);
    MOED_CHECK(expert.up.rows == loaded->intermediate && expert.up.cols == loaded->hidden);
    MOED_CHECK(expert.down.rows == loaded->hidden && expert.down.cols == loaded->intermediate);
    loaded->experts.push_back({ToFloat(expert.gate), ToFloat(expert.up), ToFloat(expert.down)});
  }
  return loaded;
}

void WeightsBackend::EmbedTokens(const LinearWeights&, const int32_t*, float, TensorView) {
  NoOps("EmbedTokens");
}
void WeightsBackend::RmsNorm(TensorView, const float*, float, TensorView) { NoOps("RmsNorm"); }
void WeightsBackend::Linear(const LinearParams&) { NoOps("Linear"); }
void WeightsBackend::PrepareQkv(const PrepareQkvParams&, const KvCacheView&) {
  NoOps("PrepareQkv");
}
void WeightsBackend::Attention(const AttentionParams&) { NoOps("Attention"); }
void WeightsBackend::Route(const RouteParams&) { NoOps("Route"); }
void WeightsBackend::PlanExperts(const PlanExpertsParams&) { NoOps("PlanExperts"); }
void WeightsBackend::LocateRows(const LocateRowsParams&) { NoOps("LocateRows"); }
void WeightsBackend::GatherRows(const GatherRowsParams&) { NoOps("GatherRows"); }
void WeightsBackend::ExpertsGateUp(const ExpertsGateUpParams&) { NoOps("ExpertsGateUp"); }
void WeightsBackend::ExpertsDown(const ExpertsDownParams&) { NoOps("ExpertsDown"); }
void WeightsBackend::Combine(const CombineParams&) { NoOps("Combine"); }
void WeightsBackend::AddRows(const AddRowsParams&) { NoOps("AddRows"); }
void WeightsBackend::Sample(const SampleParams&) { NoOps("Sample"); }

}  // namespace moed
