#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <vector>

#include "kernels/cuda/ops.h"
#include "kernels/params.h"

namespace moed::kernels::cuda {

/// Keys are reduced in partitions that start at positions 0, 256, 512, ...; the partial results of
/// a row are merged in order of positions, by one block or by several. How many blocks take part
/// changes no bit.
constexpr int32_t kKeyPartition = 256;
constexpr int32_t kMaxHeadDim = 128;

/// Blocks of one warp that a plan wants for each multiprocessor.
constexpr int64_t kBlocksPerMultiprocessor = 4;

/// A query vector is one row of one head. The vectors of a slice that share a KV head are numbered
/// row * group_size + head % group_size.
constexpr int32_t kVectorsPerWarp = 16;
constexpr int32_t kWarpsOfManyVectors = 4;

/// What one block does for one KV head: some vectors of a slice over some key partitions.
struct AttentionTask {
  int32_t slice_row = 0;       // the slice's first row in q
  int32_t start_position = 0;  // of that row
  int32_t block_begin = 0;     // of the slice's block table in the concatenated tables
  int32_t first_vector = 0;
  int32_t num_vectors = 0;
  int32_t first_partition = 0;
  int32_t end_partition = 0;
  int32_t partial = -1;  // where the unmerged result goes, or -1: this is the result
};

/// Merges the partials [partial, partial + end_partition) of a task that was split.
using MergeTask = AttentionTask;

/// How many tasks there are.
struct AttentionCounts {
  int32_t few = 0;
  int32_t many = 0;
  int32_t merge = 0;
};

/// All tasks of one batch. Plain host data; a pure function of the batch.
struct AttentionPlan {
  std::vector<AttentionTask> few;   // at most 16 vectors: blocks of one warp
  std::vector<AttentionTask> many;  // at most 64 vectors: blocks of four warps
  std::vector<MergeTask> merge;     // of tasks of `few`
  int32_t num_partials = 0;         // each [nkv, 16, head_dim + 2] f32

  AttentionCounts counts() const {
    return {static_cast<int32_t>(few.size()), static_cast<int32_t>(many.size()),
            static_cast<int32_t>(merge.size())};
  }
};

/// Splits the longest contexts of few vectors into a task per partition while there are too few
/// blocks for the device otherwise.
AttentionPlan PlanAttention(const AttentionBatch& batch, int32_t num_heads, int32_t num_kv_heads,
                            int num_multiprocessors);

/// A plan in device memory: blocks take tasks in turn until those of `counts` are done.
struct AttentionArrays {
  const AttentionCounts* counts = nullptr;
  AttentionCounts most;  // of counts, on the host: bounds the grids
  const int32_t* block_tables = nullptr;
  const AttentionTask* few = nullptr;
  const AttentionTask* many = nullptr;
  const MergeTask* merge = nullptr;
  float* partials = nullptr;
};

cudaError_t Attention(const Device& device, const AttentionParams& params,
                      const AttentionArrays& arrays);  // attention.cu

}  // namespace moed::kernels::cuda
