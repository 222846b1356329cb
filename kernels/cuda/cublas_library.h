#pragma once

#include <cuda_runtime.h>

#include <cstddef>

#include "absl/status/statusor.h"

namespace moed::kernels::cuda {

/// The few calls of cuBLAS that fast numerics make, by the types that its C interface has: handles
/// are pointers, enumerations are ints, and 0 is success.
struct CublasFunctions {
  int (*create)(void** handle) = nullptr;
  int (*destroy)(void* handle) = nullptr;
  int (*set_stream)(void* handle, cudaStream_t stream) = nullptr;
  int (*set_workspace)(void* handle, void* workspace, size_t bytes) = nullptr;
  int (*gemm_ex)(void* handle, int op_a, int op_b, int m, int n, int k, const void* alpha,
                 const void* a, int a_type, int lda, const void* b, int b_type, int ldb,
                 const void* beta, void* c, int c_type, int ldc, int compute_type,
                 int algorithm) = nullptr;
};

// Values of those enumerations: cublasOperation_t, cudaDataType_t, cublasComputeType_t,
// cublasGemmAlgo_t.
inline constexpr int kCublasNoTranspose = 0;
inline constexpr int kCublasTranspose = 1;
inline constexpr int kCublasF32 = 0;
inline constexpr int kCublasBf16 = 14;
inline constexpr int kCublasComputeF32 = 68;
inline constexpr int kCublasDefaultAlgorithm = -1;

/// Loads libcublas of CUDA 13 or 12 for the life of the process. NOT_FOUND when there is none.
absl::StatusOr<CublasFunctions> LoadCublas();

}  // namespace moed::kernels::cuda
