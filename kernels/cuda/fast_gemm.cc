#include "kernels/cuda/fast_gemm.h"

#include "absl/strings/str_cat.h"
#include "kernels/tensor_view.h"

namespace moed::kernels::cuda {
namespace {

// From here on a product is bound by arithmetic, and cuBLAS is taken to do it faster. Not measured.
constexpr int64_t kFewestRows = 128;  // of a matrix, on average over those with rows
constexpr size_t kWorkspaceBytes = size_t{32} << 20;

int64_t Aligned(int64_t bytes) { return (bytes + 255) / 256 * 256; }

}  // namespace

/// One call: rows [first_row, first_row + num_rows) times matrix `matrix`.
struct FastGemm::Product {
  int64_t matrix = 0;
  int64_t first_row = 0;
  int64_t num_rows = 0;
  const uint16_t* x = nullptr;  // [all rows, K]
  void* out = nullptr;          // [all rows, rows of a matrix]
  bool out_is_f32 = true;
};

absl::StatusOr<std::unique_ptr<FastGemm>> FastGemm::Create(CudaContext& context) {
  std::unique_ptr<FastGemm> gemm(new FastGemm(context));
  absl::StatusOr<CublasFunctions> cublas = LoadCublas();
  if (!cublas.ok()) return cublas.status();
  gemm->cublas_ = *cublas;
  const cudaStream_t stream = context.Begin().stream;
  context.Keep(cudaMalloc(&gemm->workspace_, kWorkspaceBytes), "allocating memory for cuBLAS");
  if (context.failed()) return context.status();
  int error = cublas->create(&gemm->handle_);
  if (error == 0) error = cublas->set_stream(gemm->handle_, stream);
  if (error == 0) error = cublas->set_workspace(gemm->handle_, gemm->workspace_, kWorkspaceBytes);
  if (error == 0) return gemm;
  return absl::InternalError(absl::StrCat("starting cuBLAS on cuda:", context.device_index(),
                                          ": its status is ", error, ", expected 0"));
}

FastGemm::~FastGemm() {
  cudaStreamSynchronize(context_.Begin().stream);
  if (handle_ != nullptr) cublas_.destroy(handle_);
  cudaFree(workspace_);
}

bool FastGemm::Takes(const GemmParams& p, std::span<const int32_t> offsets) {
  if (p.weights.encoding != Encoding::kBf16 || p.bias != nullptr || offsets.empty()) return false;
  int64_t active = 0;
  for (size_t m = 1; m < offsets.size(); ++m) active += offsets[m] > offsets[m - 1];
  return active > 0 && p.num_rows >= kFewestRows * active;
}

void FastGemm::Run(const GemmParams& p, std::span<const int32_t> offsets) {
  const DeviceMatrix& w = p.weights;
  const bool is_swiglu = p.epilogue == GemmEpilogue::kSwiGlu;
  const bool is_scattered = p.out_row != nullptr;
  const int64_t x_bytes = p.x_row == nullptr ? 0 : Aligned(p.num_rows * w.cols * 2);
  const int64_t out_bytes =
      is_swiglu || is_scattered ? p.num_rows * w.rows * (is_swiglu ? 4 : 2) : 0;
  char* scratch = static_cast<char*>(
      x_bytes + out_bytes == 0 ? nullptr : context_.Scratch(x_bytes + out_bytes));
  if (context_.failed()) return;
  Product product = {.x = p.x, .out = p.out, .out_is_f32 = p.epilogue != GemmEpilogue::kRound};
  if (x_bytes > 0) {
    const GatherRowsParams gather = {
        .src = {const_cast<uint16_t*>(p.x), DType::kBF16, p.num_rows, w.cols},
        .row_index = p.x_row,
        .out = {scratch, DType::kBF16, p.num_rows, w.cols}};
    context_.Keep(GatherRows(context_.Begin(), gather), "gathering rows for cuBLAS");
    product.x = reinterpret_cast<const uint16_t*>(scratch);
  }
  if (out_bytes > 0) product.out = scratch + x_bytes;
  for (size_t m = 0; m + 1 < offsets.size(); ++m) {
    product.matrix = static_cast<int64_t>(m);
    product.first_row = offsets[m];
    product.num_rows = offsets[m + 1] - offsets[m];
    if (product.num_rows > 0 && !context_.failed()) Multiply(p, product);
  }
  if (context_.failed()) return;
  if (is_swiglu) {
    const SwiGluParams swiglu = {.rows = static_cast<const float*>(product.out),
                                 .num_rows = p.num_rows,
                                 .row_stride = w.rows,
                                 .num_features = p.num_features,
                                 .out = static_cast<uint16_t*>(p.out)};
    context_.Keep(SwiGlu(context_.Begin(), swiglu), "SwiGlu");
  } else if (is_scattered) {
    const ScatterParams scatter = {.rows = static_cast<const uint16_t*>(product.out),
                                   .out_row = p.out_row,
                                   .num_rows = p.num_rows,
                                   .num_features = p.num_features,
                                   .out = static_cast<uint16_t*>(p.out)};
    context_.Keep(ScatterRows(context_.Begin(), scatter), "ScatterRows");
  }
}

// cuBLAS counts by columns: its out [features, rows] = W [K, features]^T x [K, rows].
void FastGemm::Multiply(const GemmParams& p, const Product& product) {
  const DeviceMatrix& w = p.weights;
  const bool accumulates = p.epilogue == GemmEpilogue::kAccumulate;
  const float alpha = accumulates ? p.scale : 1.0f, beta = accumulates ? 1.0f : 0.0f;
  const int64_t out_at = product.first_row * w.rows * (product.out_is_f32 ? 4 : 2);
  context_.Begin();
  const int error = cublas_.gemm_ex(
      handle_, kCublasTranspose, kCublasNoTranspose, static_cast<int>(w.rows),
      static_cast<int>(product.num_rows), static_cast<int>(w.cols), &alpha,
      w.data + product.matrix * w.rows * w.row_stride, kCublasBf16, static_cast<int>(w.row_stride),
      product.x + product.first_row * w.cols, kCublasBf16, static_cast<int>(w.cols), &beta,
      static_cast<char*>(product.out) + out_at, product.out_is_f32 ? kCublasF32 : kCublasBf16,
      static_cast<int>(w.rows), kCublasComputeF32, kCublasDefaultAlgorithm);
  context_.Keep(error == 0 ? cudaSuccess : cudaErrorLaunchFailure, "cublasGemmEx");
}

}  // namespace moed::kernels::cuda
