#include "kernels/cuda/device.cuh"
#include "kernels/cuda/ops.h"

namespace moed::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;

/// What params.h says, as plain values.
struct QkvArguments {
  const float* qkv;
  const int32_t* positions;
  const int32_t* slots;
  int num_heads, num_kv_heads, head_dim;
  QkNorm qk_norm;
  const float* q_norm;
  const float* k_norm;
  float norm_eps;
  float clip;
  const float* rope_cos;
  const float* rope_sin;
  Bf16* q_out;
  void* k_cache;
  void* v_cache;
  bool cache_is_f32;
  int block_size;
};

/// The factor that normalises `n` elements of the row, computed by the block.
__device__ float FullNormScale(const float* x, int n, float eps, float* scratch) {
  float square = 0;
  for (int i = static_cast<int>(threadIdx.x); i < n; i += kThreads) {
    square = fmaf(x[i], x[i], square);
  }
  return 1.0f / sqrtf(BlockSum(square, scratch) / static_cast<float>(n) + eps);
}

/// The factor that normalises one head, computed by the warp.
__device__ float HeadNormScale(const float* x, int n, float eps) {
  float square = 0;
  for (int i = static_cast<int>(threadIdx.x) % kWarpSize; i < n; i += kWarpSize) {
    square = fmaf(x[i], x[i], square);
  }
  return 1.0f / sqrtf(WarpSum(square) / static_cast<float>(n) + eps);
}

struct HeadTarget {
  void* out;  // [head_dim]
  bool is_f32;
};

__device__ void Store(const HeadTarget& target, int i, float x) {
  if (target.is_f32) {
    static_cast<float*>(target.out)[i] = x;
  } else {
    static_cast<Bf16*>(target.out)[i] = ToBf16(x);
  }
}

/// Where head `head` of a token goes: to q_out, or to its slot in the cache.
__device__ HeadTarget TargetOf(const QkvArguments& a, int64_t row, int head) {
  if (head < a.num_heads) {
    return {a.q_out + (row * a.num_heads + head) * a.head_dim, false};
  }
  const int kv_head = (head - a.num_heads) % a.num_kv_heads;
  char* cache = static_cast<char*>(head < a.num_heads + a.num_kv_heads ? a.k_cache : a.v_cache);
  const int64_t block = a.slots[row] / a.block_size, offset = a.slots[row] % a.block_size;
  const int64_t cache_row = (block * a.num_kv_heads + kv_head) * a.block_size + offset;
  return {cache + cache_row * a.head_dim * (a.cache_is_f32 ? 4 : 2), a.cache_is_f32};
}

/// Norm, clip and rotation of one head by a warp. `weight` is null for v, which is only clipped.
__device__ void PrepareHead(const QkvArguments& a, const float* x, const float* weight, float scale,
                            int64_t position, const HeadTarget& target) {
  const int half = a.head_dim / 2;
  const float limit = a.clip > 0 ? a.clip : INFINITY;
  for (int i = static_cast<int>(threadIdx.x) % kWarpSize; i < half; i += kWarpSize) {
    float first = x[i], second = x[half + i];
    if (weight != nullptr && a.qk_norm != QkNorm::kNone) {
      first = first * scale * weight[i];
      second = second * scale * weight[half + i];
    }
    first = fminf(limit, fmaxf(-limit, first));
    second = fminf(limit, fmaxf(-limit, second));
    if (weight != nullptr) {
      const float c = a.rope_cos[position * half + i], s = a.rope_sin[position * half + i];
      const float rotated = first * c - second * s;
      second = second * c + first * s;
      first = rotated;
    }
    Store(target, i, first);
    Store(target, half + i, second);
  }
}

/// One block per token; its warps take heads in turn: q, then k, then v.
__global__ void __launch_bounds__(kThreads) PrepareQkvKernel(QkvArguments a) {
  __shared__ float scratch[kWarpSize];
  const int64_t row = blockIdx.x;
  const int num_rotated = a.num_heads + a.num_kv_heads;
  const int num_all = num_rotated + a.num_kv_heads;
  const float* x = a.qkv + row * num_all * a.head_dim;
  float q_scale = 1.0f, k_scale = 1.0f;
  if (a.qk_norm == QkNorm::kFull) {
    q_scale = FullNormScale(x, a.num_heads * a.head_dim, a.norm_eps, scratch);
    k_scale = FullNormScale(x + a.num_heads * a.head_dim, a.num_kv_heads * a.head_dim, a.norm_eps,
                            scratch);
  }
  for (int head = static_cast<int>(threadIdx.x) / kWarpSize; head < num_all; head += kWarps) {
    const bool is_q = head < a.num_heads;
    const float* from = x + head * a.head_dim;
    // Any pointer that is not null will do where there is no norm.
    const float* weight = is_q ? a.q_norm : a.k_norm;
    float scale = is_q ? q_scale : k_scale;
    if (a.qk_norm == QkNorm::kFull) weight += (is_q ? head : head - a.num_heads) * a.head_dim;
    if (a.qk_norm == QkNorm::kPerHead) scale = HeadNormScale(from, a.head_dim, a.norm_eps);
    if (a.qk_norm == QkNorm::kNone) weight = a.rope_cos;
    PrepareHead(a, from, head < num_rotated ? weight : nullptr, scale, a.positions[row],
                TargetOf(a, row, head));
  }
}

}  // namespace

cudaError_t PrepareQkv(const Device& device, const PrepareQkvParams& p, const KvCacheView& cache) {
  const QkvArguments arguments = {.qkv = p.qkv.as<float>(),
                                  .positions = p.positions,
                                  .slots = p.slots,
                                  .num_heads = p.num_heads,
                                  .num_kv_heads = p.num_kv_heads,
                                  .head_dim = p.head_dim,
                                  .qk_norm = p.qk_norm,
                                  .q_norm = p.q_norm,
                                  .k_norm = p.k_norm,
                                  .norm_eps = p.norm_eps,
                                  .clip = p.clip_qkv,
                                  .rope_cos = p.rope_cos,
                                  .rope_sin = p.rope_sin,
                                  .q_out = p.q_out.as<Bf16>(),
                                  .k_cache = cache.k,
                                  .v_cache = cache.v,
                                  .cache_is_f32 = cache.dtype == DType::kF32,
                                  .block_size = cache.block_size};
  return Launch(PrepareQkvKernel,
                {.grid = {static_cast<unsigned>(p.qkv.rows)}, .block = {kThreads}}, device.stream,
                arguments);
}

}  // namespace moed::kernels::cuda
