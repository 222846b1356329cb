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

/// All blocks of one call. Plain host data; a pure function of the batch.
struct AttentionPlan {
  std::vector<AttentionTask> few;   // at most 16 vectors: blocks of one warp
  std::vector<AttentionTask> many;  // at most 64 vectors: blocks of four warps
  std::vector<MergeTask> merge;     // of tasks of `few`
  int32_t num_partials = 0;         // each [nkv, 16, head_dim + 2] f32
};

/// Splits long contexts of few vectors into a block per partition when there would be too few
/// blocks for the device otherwise.
AttentionPlan PlanAttention(const AttentionParams& params, int num_multiprocessors);

/// A plan's arrays in device memory.
struct AttentionArrays {
  const int32_t* block_tables = nullptr;
  const AttentionTask* few = nullptr;
  const AttentionTask* many = nullptr;
  const MergeTask* merge = nullptr;
  float* partials = nullptr;
};

cudaError_t Attention(const Device& device, const AttentionParams& params,
                      const AttentionPlan& plan, const AttentionArrays& arrays);  // attention.cu

}  // namespace moed::kernels::cuda
