#pragma once

#include <cstdint>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/ptx.cuh"

/// What a block of attention does with its query vectors and a tile of keys and values.
namespace moed::kernels::cuda {

constexpr int kTile = 64;  // keys
constexpr int kChunk = 8;  // elements of a 16-byte copy
static_assert(kKeyPartition % kTile == 0);

struct AttentionArguments {
  const Bf16* q;
  Bf16* out;
  const void* k_cache;
  const void* v_cache;
  const int32_t* block_tables;
  float* partials;
  int num_heads, num_kv_heads, head_dim, block_size;
  bool cache_is_f32;
  float scale;
};

/// kWarps warps of 16 vectors each; head_dim is padded with zeros to kDim.
template <int kWarps_, int kDim_>
struct AttentionShape {
  static constexpr int kWarps = kWarps_, kDim = kDim_;
  static constexpr int kThreads = kWarps * kWarpSize;
  static constexpr int kVectors = kWarps * kVectorsPerWarp;
  static constexpr int kStages = 2;  // tiles of keys and values in shared memory
  static constexpr int kTileElements = kTile * kDim;
  static constexpr int kElements = kVectors * kDim + kStages * 2 * kTileElements;
  static constexpr size_t kSharedBytes =
      kElements * sizeof(Bf16) + size_t{kVectors} * kDim * sizeof(float);
};

/// What a lane holds of two vectors: lane / 4 and lane / 4 + 8 of the warp's.
template <int kDim>
struct Partial {
  float acc[kDim / 8][4];  // the unnormalised output, in mma's layout
  float max[2];
  float sum[2];
};

template <int kDim>
__device__ __forceinline__ Bf16* At(Bf16* rows, int row, int chunk) {
  return rows + row * kDim + ((chunk ^ (row & 7)) * kChunk);
}

/// A task for one KV head.
struct HeadTask : AttentionTask {
  int kv_head;
};

/// Item `index` of tasks times KV heads.
__device__ __forceinline__ HeadTask TakeTask(const AttentionArguments& a,
                                             const AttentionTask* tasks, int index) {
  HeadTask task;
  static_cast<AttentionTask&>(task) = tasks[index / a.num_kv_heads];
  task.kv_head = index % a.num_kv_heads;
  return task;
}

struct VectorPlace {
  int64_t row;   // of q and out
  int position;  // of that row; -1 for a vector beyond the task's
  int head;
};

__device__ __forceinline__ VectorPlace PlaceOf(const AttentionArguments& a, const HeadTask& task,
                                               int vector) {
  const int group = a.num_heads / a.num_kv_heads;
  const int index = task.first_vector + vector;
  if (vector >= task.num_vectors) return {0, -1, 0};
  return {task.slice_row + index / group, task.start_position + index / group,
          task.kv_head * group + index % group};
}

template <typename Shape>
__device__ void LoadQueries(const AttentionArguments& a, const HeadTask& task, Bf16* q) {
  for (int i = static_cast<int>(threadIdx.x); i < Shape::kVectors * Shape::kDim;
       i += Shape::kThreads) {
    const int vector = i / Shape::kDim, d = i % Shape::kDim;
    const VectorPlace place = PlaceOf(a, task, vector);
    const bool exists = place.position >= 0 && d < a.head_dim;
    const int64_t at = (place.row * a.num_heads + place.head) * a.head_dim + d;
    At<Shape::kDim>(q, vector, d / kChunk)[d % kChunk] = exists ? a.q[at] : Bf16{0};
  }
}

/// Starts copying the tile of one cache (k or v) at first_key; what is beyond num_keys or head_dim
/// is zero.
template <typename Shape>
__device__ void LoadTile(const AttentionArguments& a, const HeadTask& task, const void* cache,
                         int first_key, int num_keys, Bf16* tile) {
  const int32_t* table = a.block_tables + task.block_begin;
  constexpr int kRowChunks = Shape::kDim / kChunk;
  const bool can_copy = !a.cache_is_f32 && a.head_dim % kChunk == 0;
  for (int i = static_cast<int>(threadIdx.x); i < kTile * kRowChunks; i += Shape::kThreads) {
    const int row = i / kRowChunks, d = i % kRowChunks * kChunk;
    const int key = first_key + row;
    Bf16* to = At<Shape::kDim>(tile, row, d / kChunk);
    const bool exists = key < num_keys && d < a.head_dim;
    int64_t at = 0;
    if (exists) {
      const int64_t block = int64_t{table[key / a.block_size]} * a.num_kv_heads + task.kv_head;
      at = (block * a.block_size + key % a.block_size) * a.head_dim + d;
    }
    if (can_copy) {
      CopyAsync16(to, static_cast<const Bf16*>(cache) + at, exists ? 16 : 0);
      continue;
    }
    for (int j = 0; j < kChunk; ++j) {
      Bf16 x = {0};
      if (exists && d + j < a.head_dim) {
        x = a.cache_is_f32 ? ToBf16(static_cast<const float*>(cache)[at + j])
                           : static_cast<const Bf16*>(cache)[at + j];
      }
      to[j] = x;
    }
  }
}

/// scores = q k^T of the warp's 16 vectors and a tile.
template <int kDim>
__device__ __forceinline__ void ScoreTile(Bf16* q, Bf16* keys, float (&scores)[kTile / 8][4]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
#pragma unroll
  for (int n = 0; n < kTile / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) scores[n][i] = 0;
  }
#pragma unroll 4  // all at once do not fit into the registers of sm_100
  for (int d = 0; d < kDim; d += 16) {
    uint32_t a[4];
    LoadMatrix4(a, At<kDim>(q, warp * kVectorsPerWarp + lane % 16, d / 8 + lane / 16));
#pragma unroll
    for (int n = 0; n < kTile / 16; ++n) {
      uint32_t b[4];
      LoadMatrix4(b, At<kDim>(keys, n * 16 + lane / 16 * 8 + lane % 8, d / 8 + lane / 8 % 2));
      MmaBf16(scores[2 * n], a, b[0], b[1]);
      MmaBf16(scores[2 * n + 1], a, b[2], b[3]);
    }
  }
}

/// Turns the scores of row `half` (0: lane / 4, 1: lane / 4 + 8) into exp(scale * score - max),
/// zero from key num_seen of the tile on, and brings max, sum and acc up to date.
template <int kDim>
__device__ __forceinline__ void UpdateSoftmax(float (&scores)[kTile / 8][4], int half, int num_seen,
                                              float scale, Partial<kDim>& p) {
  const int first = static_cast<int>(threadIdx.x) % 4 * 2;
  float best = -INFINITY;
#pragma unroll
  for (int n = 0; n < kTile / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float& s = scores[n][2 * half + i];
      s = n * 8 + first + i < num_seen ? s * scale : -INFINITY;
      best = fmaxf(best, s);
    }
  }
  best = fmaxf(best, __shfl_xor_sync(kAllLanes, best, 1));
  best = fmaxf(best, __shfl_xor_sync(kAllLanes, best, 2));
  const float new_max = fmaxf(p.max[half], best);
  const float reference = new_max == -INFINITY ? 0.0f : new_max;  // no key seen so far
  float total = 0;
#pragma unroll
  for (int n = 0; n < kTile / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float& s = scores[n][2 * half + i];
      s = expf(s - reference);
      total += s;
    }
  }
  total += __shfl_xor_sync(kAllLanes, total, 1);
  total += __shfl_xor_sync(kAllLanes, total, 2);
  const float factor = expf(p.max[half] - reference);
  p.max[half] = new_max;
  p.sum[half] = fmaf(p.sum[half], factor, total);
#pragma unroll
  for (int d = 0; d < kDim / 8; ++d) {
    p.acc[d][2 * half] *= factor;
    p.acc[d][2 * half + 1] *= factor;
  }
}

/// acc += probabilities times the tile's values.
template <int kDim>
__device__ __forceinline__ void AddValues(const float (&scores)[kTile / 8][4], Bf16* values,
                                          Partial<kDim>& p) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
#pragma unroll
  for (int k = 0; k < kTile / 16; ++k) {
    const float(&low)[4] = scores[2 * k];
    const float(&high)[4] = scores[2 * k + 1];
    const uint32_t a[4] = {PackBf16(low[0], low[1]), PackBf16(low[2], low[3]),
                           PackBf16(high[0], high[1]), PackBf16(high[2], high[3])};
#pragma unroll
    for (int d = 0; d < kDim / 16; ++d) {
      uint32_t b[4];
      LoadMatrix4Transposed(b, At<kDim>(values, k * 16 + lane % 16, d * 2 + lane / 16));
      MmaBf16(p.acc[2 * d], a, b[0], b[1]);
      MmaBf16(p.acc[2 * d + 1], a, b[2], b[3]);
    }
  }
}

template <int kDim>
__device__ __forceinline__ void Clear(Partial<kDim>& p) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    p.max[half] = -INFINITY;
    p.sum[half] = 0;
  }
#pragma unroll
  for (int d = 0; d < kDim / 8; ++d) {
#pragma unroll
    for (int i = 0; i < 4; ++i) p.acc[d][i] = 0;
  }
}

/// How two partial results of a vector become one: x = x * first + y * second, likewise the sums.
struct MergeFactors {
  float first, second;
  float max, sum;
};

__device__ __forceinline__ MergeFactors Merge(float max, float sum, float next_max,
                                              float next_sum) {
  const float new_max = fmaxf(max, next_max);
  const float first = expf(max - new_max), second = expf(next_max - new_max);
  return {first, second, new_max, fmaf(sum, first, next_sum * second)};
}

/// Merges the warp's partial of one partition into `total` [16, kDim] and its max and sum.
template <int kDim>
__device__ void MergePartition(const Partial<kDim>& p, float* total, float (&max)[2],
                               float (&sum)[2]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (p.sum[half] == 0) continue;  // the vector sees no key of the partition
    float* row = total + (lane / 4 + 8 * half) * kDim + lane % 4 * 2;
    MergeFactors m = {0, 1, p.max[half], p.sum[half]};
    const bool is_first = sum[half] == 0;
    if (!is_first) m = Merge(max[half], sum[half], p.max[half], p.sum[half]);
    max[half] = m.max;
    sum[half] = m.sum;
#pragma unroll
    for (int d = 0; d < kDim / 8; ++d) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float y = p.acc[d][2 * half + i];
        row[d * 8 + i] = is_first ? y : fmaf(row[d * 8 + i], m.first, y * m.second);
      }
    }
  }
}

/// Where a split task leaves vector `vector`: head_dim numbers, max, sum.
__device__ __forceinline__ float* PartialAt(const AttentionArguments& a, const HeadTask& task,
                                            int partial, int vector) {
  const int64_t head = int64_t{partial} * a.num_kv_heads + task.kv_head;
  return a.partials + (head * kVectorsPerWarp + vector) * (a.head_dim + 2);
}

/// Writes what a lane holds of its two vectors: the quotient to out, or both parts to the partial.
template <int kDim>
__device__ void StoreVectors(const AttentionArguments& a, const HeadTask& task, const float* total,
                             const float (&max)[2], const float (&sum)[2]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int in_warp = lane / 4 + 8 * half, vector = warp * kVectorsPerWarp + in_warp;
    const VectorPlace place = PlaceOf(a, task, vector);
    if (place.position < 0) continue;
    float* partial = task.partial < 0 ? nullptr : PartialAt(a, task, task.partial, vector);
    Bf16* out = a.out + (place.row * a.num_heads + place.head) * a.head_dim;
    for (int d = lane % 4 * 2; d < a.head_dim; d += 8) {
      for (int i = 0; i < 2 && d + i < a.head_dim; ++i) {
        const float x = total[in_warp * kDim + d + i];
        if (partial == nullptr) {
          out[d + i] = ToBf16(x * (1.0f / sum[half]));
        } else if (sum[half] != 0) {
          partial[d + i] = x;
        }
      }
    }
    if (partial != nullptr && lane % 4 == 0) {
      partial[a.head_dim] = max[half];
      partial[a.head_dim + 1] = sum[half];
    }
  }
}

}  // namespace moed::kernels::cuda
