#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/create_backend.h"
#include "kernels/cuda/cuda_context.h"
#include "kernels/cuda/cuda_op_stream.h"
#include "kernels/cuda/fast_gemm.h"
#include "kernels/cuda/recorded_steps.h"
#include "kernels/cuda/step_attention.h"

namespace moed::kernels::cuda {

/// The Backend of an NVIDIA GPU, sm_80 or later, with bf16 activations: checks shapes, uploads what
/// is host memory, and hands over to the launches of ops.h.
///
/// Owned by a rank's engine and used from its compute thread. Ops are done when Synchronize()
/// returns; after a failure of the device they do nothing.
class CudaBackend final : public Backend {
 public:
  /// `fast_gemm` is of that context; null with invariant numerics.
  CudaBackend(std::unique_ptr<CudaContext> context, std::unique_ptr<FastGemm> fast_gemm)
      : context_(std::move(context)),
        fast_gemm_(std::move(fast_gemm)),
        op_stream_(*context_),
        step_attention_(*context_),
        recorded_steps_(*context_) {}

  std::string device() const override;
  std::string instruction_set() const override { return context_->architecture(); }
  DType activation_dtype() const override { return DType::kBF16; }
  absl::Status CheckHeadDim(int64_t head_dim) const override;

  absl::StatusOr<Buffer> Allocate(int64_t bytes) override;
  void Free(void* data, int64_t bytes) override;
  void CopyToDevice(void* device, const void* host, int64_t bytes) override;
  void CopyToHost(void* host, const void* device, int64_t bytes) override;
  absl::Status Synchronize() override { return context_->Synchronize(); }
  OpStream* op_stream() override { return &op_stream_; }

  absl::StatusOr<std::unique_ptr<LinearWeights>> LoadLinear(std::span<const HostMatrix> stacked,
                                                            std::span<const float> bias,
                                                            WeightFormat format) override;
  absl::StatusOr<std::unique_ptr<ExpertWeights>> LoadExperts(std::span<const ExpertSource> experts,
                                                             WeightFormat format) override;

  int64_t RowsToRecord(int64_t num_rows) const override {
    return RecordedSteps::RowsToRecord(num_rows);
  }
  absl::Status RunStep(const StepParams& params, absl::FunctionRef<absl::Status()> ops) override;

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
  struct ExpertRows {
    const int32_t* offsets;  // device memory; null: one expert, all rows
    int64_t num_rows;
    int64_t max_rows_per_expert;
  };
  template <typename Params>
  ExpertRows RowsOf(const Params& params, int64_t num_experts, int64_t max_rows);
  void AttentionAlone(const AttentionParams& params);

  /// `offsets` as FastGemm::Takes has them.
  void Multiply(const GemmParams& params, std::span<const int32_t> offsets, const char* what);

  std::unique_ptr<CudaContext> context_;
  std::unique_ptr<FastGemm> fast_gemm_;
  CudaOpStream op_stream_;
  StepAttention step_attention_;
  RecordedSteps recorded_steps_;
};

/// A CudaBackend for options.device "cuda:N". INVALID_ARGUMENT for anything but bf16 activations,
/// NOT_FOUND when there is no such device.
absl::StatusOr<std::unique_ptr<Backend>> CreateCudaBackend(const BackendOptions& options);

/// Bytes that "cuda:N" has free. Errors of CreateCudaBackend.
absl::StatusOr<int64_t> FreeDeviceBytes(const std::string& device);

}  // namespace moed::kernels::cuda
