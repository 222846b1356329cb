#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/cpu/cpu_context.h"
#include "kernels/create_backend.h"

namespace moed::kernels::cpu {

/// The Backend of CPU cores: checks shapes and hands over to the ops of ops.h.
///
/// Owned by a rank's engine and used from its compute thread; ops are done when they return.
class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(std::unique_ptr<CpuContext> context) : context_(std::move(context)) {}

  std::string device() const override { return "cpu"; }
  std::string instruction_set() const override { return context_->kernels().name; }
  DType activation_dtype() const override { return context_->activation_dtype(); }
  absl::Status CheckHeadDim(int64_t) const override { return absl::OkStatus(); }

  absl::StatusOr<Buffer> Allocate(int64_t bytes) override;
  void Free(void* data, int64_t bytes) override;
  void CopyToDevice(void* device, const void* host, int64_t bytes) override;
  void CopyToHost(void* host, const void* device, int64_t bytes) override;
  absl::Status Synchronize() override { return absl::OkStatus(); }
  OpStream* op_stream() override { return nullptr; }

  absl::StatusOr<std::unique_ptr<LinearWeights>> LoadLinear(std::span<const HostMatrix> stacked,
                                                            std::span<const float> bias,
                                                            WeightFormat format) override;
  absl::StatusOr<std::unique_ptr<ExpertWeights>> LoadExperts(std::span<const ExpertSource> experts,
                                                             WeightFormat format) override;

  int64_t RowsToRecord(int64_t) const override { return 0; }
  absl::Status RunStep(const StepParams&, absl::FunctionRef<absl::Status()> ops) override {
    return ops();
  }

  void EmbedTokens(const LinearWeights& table, const int32_t* ids, float scale,
                   TensorView hidden) override;
  void RmsNorm(TensorView x, const float* weight, float eps, TensorView out) override;
  void Linear(const LinearParams& params) override;
  void PrepareQkv(const PrepareQkvParams& params, const KvCacheView& cache) override;
  void Attention(const AttentionParams& params) override;
  void Route(const RouteParams& params) override;
  void PlanExperts(const PlanExpertsParams& params) override;
  void LocateRows(const LocateRowsParams& params) override;
  void GatherRows(const GatherRowsParams& params) override;
  void ExpertsGateUp(const ExpertsGateUpParams& params) override;
  void ExpertsDown(const ExpertsDownParams& params) override;
  void Combine(const CombineParams& params) override;
  void AddRows(const AddRowsParams& params) override;
  void Sample(const SampleParams& params) override;

 private:
  std::unique_ptr<CpuContext> context_;
};

/// A CpuBackend as the options say; see CreateBackend.
absl::StatusOr<std::unique_ptr<Backend>> CreateCpuBackend(const BackendOptions& options);

}  // namespace moed::kernels::cpu
