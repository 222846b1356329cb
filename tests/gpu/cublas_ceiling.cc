#include <cublas_v2.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>

#include "absl/strings/str_cat.h"
#include "config/base/status_macros.h"
#include "tests/gpu/bench_table.h"

namespace moed::gpu_bench {
namespace {

/// Three square bf16 matrices and a cuBLAS handle; frees what it has.
class Product {
 public:
  explicit Product(int64_t size) : size_(size) {}
  Product(const Product&) = delete;
  Product& operator=(const Product&) = delete;
  ~Product() {
    cudaFree(memory_);
    if (handle_ != nullptr) cublasDestroy(handle_);
  }

  absl::Status Prepare() {
    const size_t bytes = 3 * MatrixBytes();
    if (cublasCreate(&handle_) != CUBLAS_STATUS_SUCCESS ||
        cudaMalloc(&memory_, bytes) != cudaSuccess ||
        // 0x3c3c is a small bf16 number; equal inputs are as much work as any.
        cudaMemset(memory_, 0x3c, bytes) != cudaSuccess) {
      return absl::InternalError("preparing a product of cuBLAS failed");
    }
    return absl::OkStatus();
  }

  absl::StatusOr<double> Seconds(int times) {
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < times; ++i) {
      const cublasStatus_t status = Multiply();
      if (status != CUBLAS_STATUS_SUCCESS) {
        return absl::InternalError(absl::StrCat("cublasGemmEx: ", cublasGetStatusString(status)));
      }
    }
    if (cudaDeviceSynchronize() != cudaSuccess) return absl::InternalError("cublasGemmEx failed");
    const auto seconds = std::chrono::steady_clock::now() - begin;
    return std::chrono::duration<double>(seconds).count() / times;
  }

 private:
  size_t MatrixBytes() const { return static_cast<size_t>(2 * size_ * size_); }

  cublasStatus_t Multiply() {
    char* a = static_cast<char*>(memory_);
    const int n = static_cast<int>(size_);
    const float one = 1, zero = 0;
    return cublasGemmEx(handle_, CUBLAS_OP_T, CUBLAS_OP_N, n, n, n, &one, a, CUDA_R_16BF, n,
                        a + MatrixBytes(), CUDA_R_16BF, n, &zero, a + 2 * MatrixBytes(),
                        CUDA_R_16BF, n, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
  }

  const int64_t size_;
  cublasHandle_t handle_ = nullptr;
  void* memory_ = nullptr;
};

}  // namespace

absl::StatusOr<double> MeasureCublas(int64_t size) {
  Product product(size);
  MOED_RETURN_IF_ERROR(product.Prepare());
  MOED_RETURN_IF_ERROR(product.Seconds(3).status());
  double best = 0;
  for (int i = 0; i < 3; ++i) {
    MOED_ASSIGN_OR_RETURN(const double seconds, product.Seconds(10));
    const double n = static_cast<double>(size);
    best = std::max(best, 2 * n * n * n / seconds);
  }
  return best;
}

}  // namespace moed::gpu_bench
