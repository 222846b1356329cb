#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/cuda/cuda_context.h"
#include "kernels/cuda/device_matrix.h"
#include "kernels/params.h"

namespace moed::kernels::cuda {

/// Matrices in device memory, and the memory. Immutable once loaded.
struct LoadedMatrix {
  DeviceMatrix view;
  Buffer memory;
};

/// LinearWeights of the CUDA backend: [N, K].
class CudaLinear : public LinearWeights {
 public:
  CudaLinear(LoadedMatrix matrix, Buffer bias)
      : matrix_(std::move(matrix)), bias_(std::move(bias)) {}

  int64_t out_features() const override { return matrix_.view.rows; }
  int64_t in_features() const override { return matrix_.view.cols; }
  int64_t size_bytes() const override { return matrix_.memory.size_bytes(); }
  const DeviceMatrix& matrix() const { return matrix_.view; }
  const float* bias() const { return bias_.as<float>(); }  // [N] in device memory, or null

 private:
  const LoadedMatrix matrix_;
  const Buffer bias_;
};

/// ExpertWeights of the CUDA backend. The rows of gate and up alternate in groups of 8, so that one
/// thread of the GEMM holds both numbers of an output: [E, 16 * ceil(I / 8), H]; down is [E, H, I].
class CudaExperts : public ExpertWeights {
 public:
  CudaExperts(int64_t intermediate_size, LoadedMatrix gate_up, LoadedMatrix down)
      : intermediate_size_(intermediate_size),
        gate_up_(std::move(gate_up)),
        down_(std::move(down)) {}

  int64_t num_experts() const override { return gate_up_.view.num_matrices; }
  int64_t hidden_size() const override { return gate_up_.view.cols; }
  int64_t intermediate_size() const override { return intermediate_size_; }
  int64_t size_bytes() const override {
    return gate_up_.memory.size_bytes() + down_.memory.size_bytes();
  }
  const DeviceMatrix& gate_up() const { return gate_up_.view; }
  const DeviceMatrix& down() const { return down_.view; }

 private:
  const int64_t intermediate_size_;
  const LoadedMatrix gate_up_;
  const LoadedMatrix down_;
};

/// Where weights are loaded to.
struct WeightDevice {
  Backend& backend;
  CudaContext& context;  // of that backend
};

/// See Backend::LoadLinear. INVALID_ARGUMENT for sources that do not fit together,
/// RESOURCE_EXHAUSTED when memory is short.
absl::StatusOr<std::unique_ptr<LinearWeights>> LoadLinear(const WeightDevice& device,
                                                          std::span<const HostMatrix> stacked,
                                                          std::span<const float> bias,
                                                          WeightFormat format);

/// See Backend::LoadExperts. Errors as LoadLinear.
absl::StatusOr<std::unique_ptr<ExpertWeights>> LoadExperts(const WeightDevice& device,
                                                           std::span<const ExpertSource> experts,
                                                           WeightFormat format);

}  // namespace moed::kernels::cuda
