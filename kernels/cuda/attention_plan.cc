#include <algorithm>

#include "kernels/cuda/attention.h"

namespace moed::kernels::cuda {
namespace {

int32_t CeilDiv(int32_t a, int32_t b) { return (a + b - 1) / b; }

/// One task over all partitions for each group of `max_vectors` vectors of the slice.
void AddTasks(const AttentionTask& slice, int32_t group_size, int32_t max_vectors,
              std::vector<AttentionTask>& tasks) {
  for (int32_t first = 0; first < slice.num_vectors; first += max_vectors) {
    AttentionTask task = slice;
    task.first_vector = first;
    task.num_vectors = std::min(max_vectors, slice.num_vectors - first);
    const int32_t last_row = (first + task.num_vectors - 1) / group_size;
    task.end_partition = CeilDiv(slice.start_position + last_row + 1, kKeyPartition);
    tasks.push_back(task);
  }
}

/// Replaces each task by one per partition, and a merge.
void Split(AttentionPlan& plan) {
  std::vector<AttentionTask> whole;
  whole.swap(plan.few);
  for (const AttentionTask& task : whole) {
    if (task.end_partition == 1) {
      plan.few.push_back(task);
      continue;
    }
    MergeTask merge = task;
    merge.partial = plan.num_partials;
    plan.merge.push_back(merge);
    for (int32_t p = 0; p < task.end_partition; ++p) {
      AttentionTask part = task;
      part.first_partition = p;
      part.end_partition = p + 1;
      part.partial = plan.num_partials++;
      plan.few.push_back(part);
    }
  }
}

}  // namespace

AttentionPlan PlanAttention(const AttentionParams& params, int num_multiprocessors) {
  const AttentionBatch& batch = *params.batch;
  const int32_t group_size = params.num_heads / params.num_kv_heads;
  AttentionPlan plan;
  for (size_t i = 0; i < batch.start_position.size(); ++i) {
    const AttentionTask slice = {
        .slice_row = batch.row_begin[i],
        .start_position = batch.start_position[i],
        .block_begin = batch.block_begin[i],
        .num_vectors = (batch.row_begin[i + 1] - batch.row_begin[i]) * group_size};
    if (slice.num_vectors <= kVectorsPerWarp) {
      AddTasks(slice, group_size, kVectorsPerWarp, plan.few);
    } else {
      AddTasks(slice, group_size, kWarpsOfManyVectors * kVectorsPerWarp, plan.many);
    }
  }
  // Blocks of one warp: a few of them fit on a multiprocessor.
  const int64_t blocks = static_cast<int64_t>(plan.few.size()) * params.num_kv_heads;
  if (blocks < int64_t{4} * num_multiprocessors) Split(plan);
  return plan;
}

}  // namespace moed::kernels::cuda
