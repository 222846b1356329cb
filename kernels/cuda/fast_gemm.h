#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "kernels/cuda/cublas_library.h"
#include "kernels/cuda/cuda_context.h"
#include "kernels/cuda/gemm.h"

namespace moed::kernels::cuda {

/// The products of fast numerics: a call of cuBLAS for each matrix.
///
/// Owned by a CudaBackend and used from the thread that calls its ops.
class FastGemm {
 public:
  /// NOT_FOUND when this machine has no cuBLAS.
  static absl::StatusOr<std::unique_ptr<FastGemm>> Create(CudaContext& context);
  FastGemm(const FastGemm&) = delete;
  FastGemm& operator=(const FastGemm&) = delete;
  ~FastGemm();

  /// Whether a product is one for cuBLAS: of bf16 weights without a bias, with rows enough, and
  /// with offsets that the host knows (`offsets`, [num_matrices + 1]; empty: it does not).
  static bool Takes(const GemmParams& params, std::span<const int32_t> offsets);

  /// Does what Gemm() does for a product that it takes; errors are kept by the context.
  void Run(const GemmParams& params, std::span<const int32_t> offsets);

 private:
  explicit FastGemm(CudaContext& context) : context_(context) {}
  struct Product;
  void Multiply(const GemmParams& params, const Product& product);

  CudaContext& context_;  // outlives this
  CublasFunctions cublas_;
  void* handle_ = nullptr;
  void* workspace_ = nullptr;
};

/// out [num_rows, I] bf16 = silu(gate) * up of rows [num_rows, 16 * ceil(I / 8)] f32 that come as 8
/// of gate, 8 of up.
struct SwiGluParams {
  const float* rows = nullptr;
  int64_t num_rows = 0;
  int64_t row_stride = 0;
  int64_t num_features = 0;  // I
  uint16_t* out = nullptr;
};
cudaError_t SwiGlu(const Device& device, const SwiGluParams& params);  // fast_gemm_rows.cu

/// out[out_row[i], :] = rows[i, :], of bf16.
struct ScatterParams {
  const uint16_t* rows = nullptr;
  const int32_t* out_row = nullptr;
  int64_t num_rows = 0;
  int64_t num_features = 0;
  uint16_t* out = nullptr;
};
cudaError_t ScatterRows(const Device& device, const ScatterParams& params);  // fast_gemm_rows.cu

}  // namespace moed::kernels::cuda
