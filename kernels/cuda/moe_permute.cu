#include "kernels/cuda/device.cuh"
#include "kernels/cuda/ops.h"

namespace moed::kernels::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void LocateRowsKernel(LocateRowsParams p) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= static_cast<int>(p.num_tokens) * p.top_k) return;
  p.row_of[i] = p.block_of_expert[p.topk_ids[i]] * p.block_rows + i;
}

/// One block per row of out; a row is `units` values of type Unit.
template <typename Unit>
__global__ void GatherRowsKernel(const Unit* src, const int32_t* row_index, int64_t units,
                                 Unit* out) {
  const Unit* from = src + row_index[blockIdx.x] * units;
  Unit* to = out + blockIdx.x * units;
  for (int64_t i = threadIdx.x; i < units; i += blockDim.x) to[i] = from[i];
}

template <typename Unit>
cudaError_t LaunchGather(const Device& device, const GatherRowsParams& p, int64_t row_bytes) {
  return Launch(GatherRowsKernel<Unit>,
                {.grid = {static_cast<unsigned>(p.out.rows)}, .block = {kThreads}}, device.stream,
                p.src.as<const Unit>(), p.row_index, row_bytes / int64_t{sizeof(Unit)},
                p.out.as<Unit>());
}

struct CombineArguments {
  const Bf16* rows;
  const int32_t* row_of;
  const float* topk_weights;
  int top_k;
  float scale;
  int64_t cols;
  float* hidden;
};

/// One block per token: its rows are added up in the router's order, then go to hidden as one sum.
__global__ void __launch_bounds__(kThreads) CombineKernel(CombineArguments a) {
  const int64_t token = blockIdx.x;
  const int32_t* row_of = a.row_of + token * a.top_k;
  const float* weights = a.topk_weights + token * a.top_k;
  for (int64_t i = threadIdx.x; i < a.cols; i += kThreads) {
    float sum = 0;
    for (int j = 0; j < a.top_k; ++j) {
      sum = fmaf(weights[j], ToFloat(a.rows[row_of[j] * a.cols + i]), sum);
    }
    float& out = a.hidden[token * a.cols + i];
    out = fmaf(a.scale, sum, out);
  }
}

/// One block per row.
__global__ void __launch_bounds__(kThreads)
    AddRowsKernel(const Bf16* rows, const float* gate_logits, float scale, int64_t cols,
                  float* hidden) {
  const int64_t row = blockIdx.x;
  if (gate_logits != nullptr) scale *= 1.0f / (1.0f + expf(-gate_logits[row]));
  for (int64_t i = threadIdx.x; i < cols; i += kThreads) {
    float& out = hidden[row * cols + i];
    out = fmaf(scale, ToFloat(rows[row * cols + i]), out);
  }
}

}  // namespace

cudaError_t LocateRows(const Device& device, const LocateRowsParams& p) {
  const int64_t blocks = (p.num_tokens * p.top_k + kThreads - 1) / kThreads;
  return Launch(LocateRowsKernel, {.grid = {static_cast<unsigned>(blocks)}, .block = {kThreads}},
                device.stream, p);
}

cudaError_t GatherRows(const Device& device, const GatherRowsParams& p) {
  const int64_t row_bytes = p.out.cols * static_cast<int64_t>(SizeBytes(p.out.dtype));
  if (row_bytes % 16 == 0) return LaunchGather<uint4>(device, p, row_bytes);
  if (row_bytes % 4 == 0) return LaunchGather<uint32_t>(device, p, row_bytes);
  return LaunchGather<uint16_t>(device, p, row_bytes);
}

cudaError_t Combine(const Device& device, const CombineParams& p) {
  const CombineArguments arguments = {.rows = p.rows.as<Bf16>(),
                                      .row_of = p.row_of,
                                      .topk_weights = p.topk_weights,
                                      .top_k = p.top_k,
                                      .scale = p.scale,
                                      .cols = p.hidden.cols,
                                      .hidden = p.hidden.as<float>()};
  return Launch(CombineKernel,
                {.grid = {static_cast<unsigned>(p.hidden.rows)}, .block = {kThreads}},
                device.stream, arguments);
}

cudaError_t AddRows(const Device& device, const AddRowsParams& p) {
  return Launch(AddRowsKernel,
                {.grid = {static_cast<unsigned>(p.hidden.rows)}, .block = {kThreads}},
                device.stream, p.rows.as<Bf16>(), p.gate_logits, p.scale, p.hidden.cols,
                p.hidden.as<float>());
}

}  // namespace moed::kernels::cuda
