#include <cfloat>

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/ops.h"

namespace moed::kernels::cuda {
namespace {

constexpr int kRowsPerBlock = 4;  // one warp each

struct RouteArguments {
  const float* logits;
  int64_t num_rows;
  int num_experts, top_k;
  bool over_chosen;  // softmax over the chosen experts only
  bool renormalize;
  int32_t* topk_ids;
  float* topk_weights;
};

/// NaN is -infinity, +infinity the largest float.
__device__ float SafeLogit(float x) { return x != x ? -INFINITY : fminf(x, FLT_MAX); }

struct Choice {
  float value;
  int id;
};

__device__ bool ComesBefore(const Choice& a, const Choice& b) {
  return a.value > b.value || (a.value == b.value && a.id < b.id);
}

/// The best of what comes after `last`, larger values and then lower ids first; the same in all
/// lanes.
__device__ Choice NextBest(const float* logits, int n, const Choice& last) {
  Choice best = {-INFINITY, n};
  for (int i = static_cast<int>(threadIdx.x) % kWarpSize; i < n; i += kWarpSize) {
    const Choice choice = {logits[i], i};
    if (ComesBefore(last, choice) && ComesBefore(choice, best)) best = choice;
  }
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
    const Choice other = {__shfl_xor_sync(kAllLanes, best.value, offset),
                          __shfl_xor_sync(kAllLanes, best.id, offset)};
    if (ComesBefore(other, best)) best = other;
  }
  return best;
}

/// exp(logit - max); a row of nothing but -infinity counts as all equal.
__device__ float Exponential(float logit, float max) {
  return max == -INFINITY ? 1.0f : expf(logit - max);
}

/// One warp per row; `logits` and `ids` are the warp's shared memory.
__global__ void __launch_bounds__(kRowsPerBlock* kWarpSize) RouteKernel(RouteArguments a) {
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  float* logits = DynamicShared<float>() + warp * (a.num_experts + a.top_k);
  int32_t* ids = reinterpret_cast<int32_t*>(logits + a.num_experts);
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kRowsPerBlock + warp;
  if (row >= a.num_rows) return;
  for (int i = lane; i < a.num_experts; i += kWarpSize) {
    logits[i] = SafeLogit(a.logits[row * a.num_experts + i]);
  }
  __syncwarp();
  Choice last = {INFINITY, -1};
  float max = 0;
  for (int j = 0; j < a.top_k; ++j) {
    last = NextBest(logits, a.num_experts, last);
    if (j == 0) max = last.value;
    if (lane == 0) ids[j] = last.id;
  }
  __syncwarp();
  float sum = 0;  // of what is divided by
  if (a.over_chosen || a.renormalize) {
    for (int j = lane; j < a.top_k; j += kWarpSize) sum += Exponential(logits[ids[j]], max);
  } else {
    for (int i = lane; i < a.num_experts; i += kWarpSize) sum += Exponential(logits[i], max);
  }
  sum = WarpSum(sum);
  for (int j = lane; j < a.top_k; j += kWarpSize) {
    a.topk_ids[row * a.top_k + j] = ids[j];
    a.topk_weights[row * a.top_k + j] = Exponential(logits[ids[j]], max) / sum;
  }
}

}  // namespace

cudaError_t Route(const Device& device, const RouteParams& p) {
  const RouteArguments arguments = {.logits = p.logits.as<float>(),
                                    .num_rows = p.logits.rows,
                                    .num_experts = static_cast<int>(p.logits.cols),
                                    .top_k = p.top_k,
                                    .over_chosen = p.scoring == RouterScoring::kTopKThenSoftmax,
                                    .renormalize = p.renormalize,
                                    .topk_ids = p.topk_ids,
                                    .topk_weights = p.topk_weights};
  const int64_t blocks = (p.logits.rows + kRowsPerBlock - 1) / kRowsPerBlock;
  const int64_t shared = kRowsPerBlock * (p.logits.cols + p.top_k) * int64_t{sizeof(float)};
  return Launch(RouteKernel,
                {.grid = {static_cast<unsigned>(blocks)},
                 .block = {kRowsPerBlock * kWarpSize},
                 .shared_bytes = static_cast<size_t>(shared)},
                device.stream, arguments);
}

}  // namespace moed::kernels::cuda
