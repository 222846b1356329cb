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

/// Replaces the longest tasks by one per partition and a merge, until there are min_tasks.
void SplitLongest(size_t min_tasks, AttentionPlan& plan) {
  std::vector<AttentionTask> whole;
  whole.swap(plan.few);
  std::stable_sort(whole.begin(), whole.end(), [](const AttentionTask& a, const AttentionTask& b) {
    return a.end_partition > b.end_partition;
  });
  size_t num_tasks = whole.size();
  for (const AttentionTask& task : whole) {
    if (task.end_partition == 1 || num_tasks >= min_tasks) {
      plan.few.push_back(task);
      continue;
    }
    MergeTask merge = task;
    merge.partial = plan.num_partials;
    plan.merge.push_back(merge);
    num_tasks += static_cast<size_t>(task.end_partition) - 1;
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

AttentionPlan PlanAttention(const AttentionBatch& batch, int32_t num_heads, int32_t num_kv_heads,
                            int num_multiprocessors) {
  const int32_t group_size = num_heads / num_kv_heads;
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
  const int64_t min_blocks = kBlocksPerMultiprocessor * num_multiprocessors;
  SplitLongest(static_cast<size_t>(CeilDiv(static_cast<int32_t>(min_blocks), num_kv_heads)), plan);
  return plan;
}

}  // namespace moed::kernels::cuda
