#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/backend.h"

namespace moed {

/// What WeightsBackend keeps of a matrix and its bias.
struct FakeLinear : public kernels::LinearWeights {
  int64_t rows = 0;
  int64_t cols = 0;
  std::vector<float> values;                                      // [rows, cols]
  std::vector<float> bias;                                        // [rows] or empty
  kernels::WeightFormat format = kernels::WeightFormat::kStored;  // asked for

  int64_t out_features() const override { return rows; }
  int64_t in_features() const override { return cols; }
  int64_t size_bytes() const override {
    return static_cast<int64_t>(values.size() * sizeof(float));
  }
};

/// What WeightsBackend keeps of a list of experts.
struct FakeExperts : public kernels::ExpertWeights {
  struct Expert {
    std::vector<float> gate;  // [I, H]
    std::vector<float> up;    // [I, H]
    std::vector<float> down;  // [H, I]

    bool operator==(const Expert&) const = default;
  };
  std::vector<Expert> experts;
  int64_t hidden = 0;
  int64_t intermediate = 0;
  kernels::WeightFormat format = kernels::WeightFormat::kStored;  // asked for

  int64_t num_experts() const override { return static_cast<int64_t>(experts.size()); }
  int64_t hidden_size() const override { return hidden; }
  int64_t intermediate_size() const override { return intermediate; }
  int64_t size_bytes() const override {
    return num_experts() * 3 * hidden * intermediate * static_cast<int64_t>(sizeof(float));
  }
};

/// A backend that keeps weights as plain float32, whatever the format, for tests to look at. It has
/// memory and weights but computes nothing: calling an op aborts the test.
class WeightsBackend : public kernels::Backend {
 public:
  std::string device() const override { return "fake"; }
  std::string instruction_set() const override { return "none"; }
  DType activation_dtype() const override { return DType::kF32; }

  absl::Status CheckHeadDim(int64_t) const override { return absl::OkStatus(); }
  absl::StatusOr<kernels::Buffer> Allocate(int64_t bytes) override;
  void Free(void* data, int64_t bytes) override;
  void CopyToDevice(void* device, const void* host, int64_t bytes) override;
  void CopyToHost(void* host, const void* device, int64_t bytes) override;
  absl::Status Synchronize() override { return absl::OkStatus(); }
  kernels::OpStream* op_stream() override { return nullptr; }

  absl::StatusOr<std::unique_ptr<kernels::LinearWeights>> LoadLinear(
      std::span<const kernels::HostMatrix> stacked, std::span<const float> bias,
      kernels::WeightFormat format) override;
  absl::StatusOr<std::unique_ptr<kernels::ExpertWeights>> LoadExperts(
      std::span<const kernels::ExpertSource> experts, kernels::WeightFormat format) override;

  int64_t RowsToRecord(int64_t) const override { return 0; }
  absl::Status RunStep(const kernels::StepParams&, absl::FunctionRef<absl::Status()> ops) override {
    return ops();
  }

  void EmbedTokens(const kernels::LinearWeights& table, const int32_t* ids, float scale,
                   kernels::TensorView hidden) override;
  void RmsNorm(kernels::TensorView x, const float* weight, float eps,
               kernels::TensorView out) override;
  void Linear(const kernels::LinearParams& params) override;
  void PrepareQkv(const kernels::PrepareQkvParams& params,
                  const kernels::KvCacheView& cache) override;
  void Attention(const kernels::AttentionParams& params) override;
  void Route(const kernels::RouteParams& params) override;
  void PlanExperts(const kernels::PlanExpertsParams& params) override;
  void LocateRows(const kernels::LocateRowsParams& params) override;
  void GatherRows(const kernels::GatherRowsParams& params) override;
  void ExpertsGateUp(const kernels::ExpertsGateUpParams& params) override;
  void ExpertsDown(const kernels::ExpertsDownParams& params) override;
  void Combine(const kernels::CombineParams& params) override;
  void AddRows(const kernels::AddRowsParams& params) override;
  void Sample(const kernels::SampleParams& params) override;

  /// Makes the next LoadLinear or LoadExperts fail with this status.
  void FailNextLoad(absl::Status status) { next_load_ = std::move(status); }
  int64_t allocated_bytes() const { return allocated_bytes_; }

 private:
  absl::Status next_load_;
  int64_t allocated_bytes_ = 0;
};

}  // namespace moed
