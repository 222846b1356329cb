#include "tests/cuda_emulation/emulated_cublas.h"

#include <atomic>
#include <cstdint>

#include "kernels/cuda/cublas_library.h"
#include "kernels/float_convert.h"
#include "tests/cuda_emulation/device_state.h"

namespace cuda_emulation {
namespace {

constexpr int kInvalidValue = 7;      // CUBLAS_STATUS_INVALID_VALUE
constexpr int kExecutionFailed = 13;  // CUBLAS_STATUS_EXECUTION_FAILED

std::atomic<int> num_products = 0;
std::atomic<bool> has_cublas = true;
std::atomic<bool> fail_products = false;

struct Handle {
  cudaStream_t stream = nullptr;
};

/// out [n, m] (by cuBLAS: [m, n] in columns) = alpha * b [n, k] a [m, k]^T + beta * out.
struct Product {
  int m, n, k;
  float alpha, beta;
  const uint16_t* a;
  int lda;
  const uint16_t* b;
  int ldb;
  void* c;
  bool c_is_f32;
  int ldc;
};

size_t BytesOf(int columns, int rows, int stride, size_t element_bytes) {
  return (static_cast<size_t>(columns - 1) * stride + rows) * element_bytes;
}

void Compute(const Product& p) {
  using moed::kernels::Bf16ToFloat;
  for (int row = 0; row < p.n; ++row) {
    for (int feature = 0; feature < p.m; ++feature) {
      const uint16_t* a = p.a + static_cast<int64_t>(feature) * p.lda;
      const uint16_t* b = p.b + static_cast<int64_t>(row) * p.ldb;
      float sum = 0;
      for (int i = 0; i < p.k; ++i) sum += Bf16ToFloat(a[i]) * Bf16ToFloat(b[i]);
      const int64_t at = static_cast<int64_t>(row) * p.ldc + feature;
      if (p.c_is_f32) {
        float& c = static_cast<float*>(p.c)[at];
        c = p.alpha * sum + (p.beta == 0 ? 0 : p.beta * c);
      } else {
        static_cast<uint16_t*>(p.c)[at] = moed::kernels::FloatToBf16(p.alpha * sum);
      }
    }
  }
}

int Create(void** handle) {
  *handle = new Handle;
  return 0;
}

int Destroy(void* handle) {
  delete static_cast<Handle*>(handle);
  return 0;
}

int SetStream(void* handle, cudaStream_t stream) {
  static_cast<Handle*>(handle)->stream = stream;
  return 0;
}

int SetWorkspace(void*, void* workspace, size_t bytes) {
  Call call;
  return call.device().memory.Contains(workspace, bytes) ? 0 : kInvalidValue;
}

/// What moed asks for and no more: bf16 factors, the first one transposed.
int GemmEx(void* handle, int op_a, int op_b, int m, int n, int k, const void* alpha, const void* a,
           int a_type, int lda, const void* b, int b_type, int ldb, const void* beta, void* c,
           int c_type, int ldc, int compute_type, int) {
  using namespace moed::kernels::cuda;  // NOLINT: the names of its enumerations
  Call call;
  ++num_products;
  if (fail_products) return kExecutionFailed;
  const Product p = {.m = m,
                     .n = n,
                     .k = k,
                     .alpha = *static_cast<const float*>(alpha),
                     .beta = *static_cast<const float*>(beta),
                     .a = static_cast<const uint16_t*>(a),
                     .lda = lda,
                     .b = static_cast<const uint16_t*>(b),
                     .ldb = ldb,
                     .c = c,
                     .c_is_f32 = c_type == kCublasF32,
                     .ldc = ldc};
  const bool is_known = op_a == kCublasTranspose && op_b == kCublasNoTranspose &&
                        a_type == kCublasBf16 && b_type == kCublasBf16 &&
                        compute_type == kCublasComputeF32 && (p.c_is_f32 || p.beta == 0);
  if (!is_known || m < 1 || n < 1 || k < 1 || lda < k || ldb < k || ldc < m) return kInvalidValue;
  DeviceMemory& memory = call.device().memory;
  if (!memory.Contains(a, BytesOf(m, k, lda, 2)) || !memory.Contains(b, BytesOf(n, k, ldb, 2)) ||
      !memory.Contains(c, BytesOf(n, m, ldc, p.c_is_f32 ? 4 : 2))) {
    return kInvalidValue;
  }
  Enqueue(static_cast<Handle*>(handle)->stream, [p] { Touch([&p] { Compute(p); }); });
  return 0;
}

}  // namespace

int NumCublasProducts() { return num_products; }
void SetHasCublas(bool has) { has_cublas = has; }
void FailCublasProducts(bool fail) { fail_products = fail; }

}  // namespace cuda_emulation

namespace moed::kernels::cuda {

absl::StatusOr<CublasFunctions> LoadCublas() {
  if (!cuda_emulation::has_cublas) return absl::NotFoundError("loading cuBLAS: there is none");
  return CublasFunctions{.create = cuda_emulation::Create,
                         .destroy = cuda_emulation::Destroy,
                         .set_stream = cuda_emulation::SetStream,
                         .set_workspace = cuda_emulation::SetWorkspace,
                         .gemm_ex = cuda_emulation::GemmEx};
}

}  // namespace moed::kernels::cuda
