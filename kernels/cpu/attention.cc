#include <algorithm>
#include <vector>

#include "kernels/check_params.h"
#include "kernels/cpu/ops.h"

namespace moed::kernels::cpu {
namespace {

using AttentionFunction = void (*)(const AttentionTask&);

AttentionFunction FunctionFor(const CpuContext& context, DType cache) {
  const AttentionKernels& attention = *context.kernels().attention;
  if (context.activation_dtype() == DType::kBF16) {
    return cache == DType::kBF16 ? attention.bf16_bf16 : attention.bf16_f32;
  }
  return cache == DType::kBF16 ? attention.f32_bf16 : attention.f32_f32;
}

/// Enough for the arrays of attention_inl.h in float32.
int64_t ScratchBytes(const AttentionTask& task) {
  const int64_t width = (task.head_dim + kPanelWidth - 1) / kPanelWidth * kPanelWidth;
  const int64_t vectors = (task.num_rows * task.group_size + 15) / 16 * 16;
  constexpr int64_t kSumAndMax = 16 + 1;
  return static_cast<int64_t>(sizeof(float)) *
         (2 * kKeyTile * width + task.num_task_heads * vectors * (2 * width + kSumAndMax));
}

/// How many keys a task reads, times rows that look at them.
int64_t Cost(const AttentionTask& task) {
  return static_cast<int64_t>(task.num_task_heads) * (task.first_position + task.num_rows) *
         (task.num_rows + 4);
}

/// What all tasks of a call have in common.
AttentionTask CommonTask(const AttentionParams& p) {
  return {.q_stride = p.q.cols,
          .k_cache = p.cache.k,
          .v_cache = p.cache.v,
          .block_size = p.cache.block_size,
          .num_kv_heads = p.num_kv_heads,
          .group_size = p.num_heads / p.num_kv_heads,
          .head_dim = p.head_dim,
          .scale = p.scale};
}

/// How many rows of a slice a task has. A task packs the keys that its query vectors (rows times
/// query heads of a KV head) see, so that more of them are cheaper, as long as each thread gets
/// some tasks.
int32_t RowsPerTask(const AttentionParams& p, int32_t group_size, int num_threads) {
  constexpr int64_t kLeastVectors = 48;
  constexpr int64_t kMostVectors = 192;
  constexpr int64_t kTasksPerThread = 8;
  const int64_t fair = p.q.rows * p.num_heads / (kTasksPerThread * num_threads);
  const int64_t vectors = std::clamp(fair, kLeastVectors, kMostVectors);
  return static_cast<int32_t>(std::max<int64_t>(1, vectors / group_size));
}

/// As many KV heads as leave a task or two for every thread, as a tile of takes up no more than a
/// part of L2, and as have not too many query vectors.
int32_t HeadsPerTask(const AttentionParams& p, const AttentionTask& task, int num_threads) {
  constexpr int64_t kTileBytes = 128 << 10;
  constexpr int64_t kAllVectors = 128;
  const int64_t slices = static_cast<int64_t>(p.batch->start_position.size());
  const int64_t fair = p.num_kv_heads * std::max<int64_t>(2, slices) / (2 * num_threads);
  const int64_t by_vectors = kAllVectors / (task.num_rows * task.group_size);
  const int64_t head_bytes =
      int64_t{2} * kKeyTile * p.head_dim * static_cast<int64_t>(SizeBytes(p.cache.dtype));
  const int64_t heads = std::min({fair, by_vectors, kTileBytes / head_bytes});
  return static_cast<int32_t>(std::max<int64_t>(1, heads));
}

/// Cuts each slice into blocks of rows, and the KV heads of a block into runs. Longest tasks come
/// first, so that the threads finish close together. How a call is cut changes no result.
std::vector<AttentionTask> MakeTasks(const AttentionParams& p, int num_threads) {
  const AttentionBatch& batch = *p.batch;
  const AttentionTask common = CommonTask(p);
  const int64_t row_bytes = p.q.cols * static_cast<int64_t>(SizeBytes(p.q.dtype));
  const int64_t num_slices = static_cast<int64_t>(batch.start_position.size());
  const int32_t max_rows = RowsPerTask(p, common.group_size, num_threads);
  std::vector<AttentionTask> tasks;
  for (int64_t s = 0; s < num_slices; ++s) {
    AttentionTask task = common;
    task.block_table = batch.block_tables.data() + batch.block_begin[s];
    const int32_t begin = batch.row_begin[s], end = batch.row_begin[s + 1];
    for (int32_t row = begin; row < end; row += task.num_rows) {
      task.num_rows = std::min(max_rows, end - row);
      task.first_position = batch.start_position[s] + row - begin;
      task.q = p.q.as<char>() + row * row_bytes;
      task.out = p.out.as<char>() + row * row_bytes;
      const int32_t heads = HeadsPerTask(p, task, num_threads);
      for (int32_t head = 0; head < p.num_kv_heads; head += heads) {
        task.first_kv_head = head;
        task.num_task_heads = std::min(heads, p.num_kv_heads - head);
        tasks.push_back(task);
      }
    }
  }
  std::stable_sort(tasks.begin(), tasks.end(), [](const AttentionTask& a, const AttentionTask& b) {
    return Cost(a) > Cost(b);
  });
  return tasks;
}

}  // namespace

void Attention(CpuContext& context, const AttentionParams& p) {
  CheckBatch(p, INT32_MAX);
  const std::vector<AttentionTask> tasks = MakeTasks(p, context.pool().num_threads());
  const AttentionFunction run = FunctionFor(context, p.cache.dtype);
  int64_t scratch_bytes = 0;
  for (const AttentionTask& task : tasks) {
    scratch_bytes = std::max(scratch_bytes, ScratchBytes(task));
  }
  context.ReserveScratch(scratch_bytes);
  context.pool().ParallelFor(static_cast<int64_t>(tasks.size()), [&](int64_t i, int thread) {
    AttentionTask task = tasks[i];
    task.scratch = context.Scratch(thread);
    run(task);
  });
}

}  // namespace moed::kernels::cpu
