#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/device_matrix.h"
#include "kernels/params.h"

/// The ops of kernels/backend.h as launches on a stream, in forward order. Shapes have been checked
/// by CudaBackend; activations are bf16. Each returns the error of its launches.
namespace moed::kernels::cuda {

constexpr int64_t kReservedSharedBytes = 1024;  // CUDA's own, of each block

/// Where to launch.
struct Device {
  cudaStream_t stream = nullptr;
  int num_multiprocessors = 0;
  int64_t shared_bytes_per_multiprocessor = 0;
};

cudaError_t EmbedTokens(const Device& device, const DeviceMatrix& table, const int32_t* ids,
                        float scale, TensorView hidden);  // embedding.cu

struct RmsNormParams {
  TensorView x;
  const float* weight = nullptr;
  float eps = 0;
  TensorView out;
};
cudaError_t RmsNorm(const Device& device, const RmsNormParams& params);  // norm.cu

cudaError_t PrepareQkv(const Device& device, const PrepareQkvParams& params,
                       const KvCacheView& cache);                                // rope.cu
cudaError_t Route(const Device& device, const RouteParams& params);              // moe_routing.cu
cudaError_t PlanExperts(const Device& device, const PlanExpertsParams& params);  // moe_plan.cu
cudaError_t LocateRows(const Device& device, const LocateRowsParams& params);    // moe_permute.cu
cudaError_t GatherRows(const Device& device, const GatherRowsParams& params);    // moe_permute.cu
cudaError_t Combine(const Device& device, const CombineParams& params);          // moe_permute.cu
cudaError_t AddRows(const Device& device, const AddRowsParams& params);          // moe_permute.cu

}  // namespace moed::kernels::cuda
