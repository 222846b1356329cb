#include <algorithm>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_tile.cuh"

/// Paged attention in the manner of FlashAttention-2 (Dao 2023): a warp holds 16 query vectors and
/// walks tiles of 64 keys; scores and the product with the values are mma.m16n8k16. Within a
/// partition of 256 keys the softmax is updated tile by tile; then the partition is merged into the
/// result so far. Both depend on key positions alone: a row's bits are the same whether it comes in
/// a prefill or alone, and whether one block walks all partitions or each has its own.
namespace moed::kernels::cuda {
namespace {

/// One task. All that a warp left in shared memory by the end is its own, or is done with.
template <typename Shape>
__device__ void RunTask(const AttentionArguments& a, const HeadTask& task, Bf16* q) {
  constexpr int kDim = Shape::kDim;
  Bf16* tiles = q + Shape::kVectors * kDim;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  float* total = reinterpret_cast<float*>(q + Shape::kElements) + warp * kVectorsPerWarp * kDim;

  const int num_keys = PlaceOf(a, task, task.num_vectors - 1).position + 1;
  const int end_key = min(num_keys, task.end_partition * kKeyPartition);
  const int begin_key = task.first_partition * kKeyPartition;
  const auto load = [&](int first_key, int stage) {
    Bf16* tile = tiles + stage * 2 * Shape::kTileElements;
    LoadTile<Shape>(a, task, a.k_cache, first_key, num_keys, tile);
    LoadTile<Shape>(a, task, a.v_cache, first_key, num_keys, tile + Shape::kTileElements);
  };
  LoadQueries<Shape>(a, task, q);
  load(begin_key, 0);
  CommitCopies();

  int position[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    position[half] = PlaceOf(a, task, warp * kVectorsPerWarp + lane / 4 + 8 * half).position;
  }
  float max[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
  Partial<kDim> p;
  Clear(p);
  int stage = 0;
  for (int key = begin_key; key < end_key; key += kTile) {
    if (key + kTile < end_key) load(key + kTile, stage ^ 1);
    CommitCopies();
    WaitForCopies<1>();
    __syncthreads();
    Bf16* tile = tiles + stage * 2 * Shape::kTileElements;
    float scores[kTile / 8][4];
    ScoreTile<kDim>(q, tile, scores);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      UpdateSoftmax<kDim>(scores, half, position[half] + 1 - key, a.scale, p);
    }
    AddValues<kDim>(scores, tile + Shape::kTileElements, p);
    if ((key + kTile) % kKeyPartition == 0 || key + kTile >= end_key) {
      MergePartition<kDim>(p, total, max, sum);
      Clear(p);
    }
    __syncthreads();  // the tile may be overwritten
    stage ^= 1;
  }
  StoreVectors<kDim>(a, task, total, max, sum);
}

/// Blocks take tasks in turn.
template <typename Shape>
__global__ void __launch_bounds__(Shape::kThreads)
    AttentionKernel(AttentionArguments a, const AttentionTask* tasks, const int32_t* num_tasks) {
  Bf16* q = DynamicShared<Bf16>();
  const int end = *num_tasks * a.num_kv_heads;
  for (int i = static_cast<int>(blockIdx.x); i < end; i += static_cast<int>(gridDim.x)) {
    RunTask<Shape>(a, TakeTask(a, tasks, i), q);
  }
}

/// One warp per vector of a split task: merges its partials in order and writes the quotient.
__global__ void MergeKernel(AttentionArguments a, const MergeTask* tasks,
                            const int32_t* num_tasks) {
  if (static_cast<int>(blockIdx.x) >= *num_tasks * a.num_kv_heads) return;
  const HeadTask task = TakeTask(a, tasks, static_cast<int>(blockIdx.x));
  const int vector = static_cast<int>(threadIdx.x) / kWarpSize;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const VectorPlace place = PlaceOf(a, task, vector);
  if (place.position < 0) return;
  Bf16* out = a.out + (place.row * a.num_heads + place.head) * a.head_dim;
  for (int d = lane; d < a.head_dim; d += kWarpSize) {
    float max = 0, sum = 0, x = 0;
    for (int i = 0; i < task.end_partition; ++i) {
      const float* partial = PartialAt(a, task, task.partial + i, vector);
      const float next_max = partial[a.head_dim], next_sum = partial[a.head_dim + 1];
      if (next_sum == 0) continue;
      MergeFactors m = {0, 1, next_max, next_sum};
      const float y = partial[d];
      if (sum != 0) m = Merge(max, sum, next_max, next_sum);
      x = sum == 0 ? y : fmaf(x, m.first, y * m.second);
      max = m.max;
      sum = m.sum;
    }
    out[d] = ToBf16(x * (1.0f / sum));
  }
}

/// As many blocks as there are tasks and heads, or as the device runs at once.
template <typename Shape>
cudaError_t LaunchTasks(const Device& device, const AttentionArguments& a,
                        const AttentionTask* tasks, const int32_t* num_tasks, int64_t most_tasks) {
  const int64_t block_bytes = static_cast<int64_t>(Shape::kSharedBytes) + kReservedSharedBytes;
  const int64_t per_multiprocessor =
      std::max<int64_t>(1, device.shared_bytes_per_multiprocessor / block_bytes);
  const int64_t blocks =
      std::min(most_tasks * a.num_kv_heads, device.num_multiprocessors * per_multiprocessor);
  return Launch(AttentionKernel<Shape>,
                {.grid = {static_cast<unsigned>(blocks)},
                 .block = {Shape::kThreads},
                 .shared_bytes = Shape::kSharedBytes},
                device.stream, a, tasks, num_tasks);
}

template <int kDim>
cudaError_t LaunchAll(const Device& device, const AttentionArguments& a,
                      const AttentionArrays& arrays) {
  using Few = AttentionShape<1, kDim>;
  using Many = AttentionShape<kWarpsOfManyVectors, kDim>;
  const AttentionCounts& most = arrays.most;
  cudaError_t error = LaunchTasks<Few>(device, a, arrays.few, &arrays.counts->few, most.few);
  if (error != cudaSuccess) return error;
  error = LaunchTasks<Many>(device, a, arrays.many, &arrays.counts->many, most.many);
  if (error != cudaSuccess) return error;
  return Launch(MergeKernel,
                {.grid = {static_cast<unsigned>(int64_t{most.merge} * a.num_kv_heads)},
                 .block = {kVectorsPerWarp * kWarpSize}},
                device.stream, a, arrays.merge, &arrays.counts->merge);
}

}  // namespace

cudaError_t Attention(const Device& device, const AttentionParams& p,
                      const AttentionArrays& arrays) {
  const AttentionArguments a = {.q = p.q.as<Bf16>(),
                                .out = p.out.as<Bf16>(),
                                .k_cache = p.cache.k,
                                .v_cache = p.cache.v,
                                .block_tables = arrays.block_tables,
                                .partials = arrays.partials,
                                .num_heads = p.num_heads,
                                .num_kv_heads = p.num_kv_heads,
                                .head_dim = p.head_dim,
                                .block_size = p.cache.block_size,
                                .cache_is_f32 = p.cache.dtype == DType::kF32,
                                .scale = p.scale};
  if (p.head_dim <= 64) return LaunchAll<64>(device, a, arrays);
  return LaunchAll<kMaxHeadDim>(device, a, arrays);
}

}  // namespace moed::kernels::cuda
