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
  int64_t cost = static_cast<int64_t>(task.shared_keys) * (task.num_rows + 4);
  for (int32_t i = 0; i < task.num_parts; ++i) {
    const AttentionRows& part = task.parts[i];
    const int64_t keys = part.first_position + part.num_rows - task.shared_keys;
    cost += keys * (part.num_rows + 4);
  }
  return task.num_task_heads * cost;
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
int32_t RowsPerTask(const AttentionParams& p, int num_threads) {
  constexpr int64_t kLeastVectors = 48;
  constexpr int64_t kMostVectors = 192;
  constexpr int64_t kTasksPerThread = 8;
  const int64_t fair = p.q.rows * p.num_heads / (kTasksPerThread * num_threads);
  const int64_t vectors = std::clamp(fair, kLeastVectors, kMostVectors);
  return static_cast<int32_t>(std::max<int64_t>(1, vectors * p.num_kv_heads / p.num_heads));
}

/// How many slices of one row may share a task: fewer where that would leave threads without work.
int32_t SharersPerTask(const AttentionParams& p, int32_t max_rows, int num_threads) {
  constexpr int64_t kTasksPerThread = 4;
  const int64_t fair = p.q.rows * p.num_kv_heads / (kTasksPerThread * num_threads);
  return static_cast<int32_t>(std::clamp<int64_t>(fair, 1, max_rows));
}

/// As many KV heads as leave a task or two for every thread (`share`), as a tile of takes up no
/// more than a part of L2, and as have not too many query vectors.
int32_t HeadsPerTask(const AttentionParams& p, const AttentionTask& task, int64_t share) {
  constexpr int64_t kTileBytes = 128 << 10;
  constexpr int64_t kAllVectors = 128;
  const int64_t by_vectors = kAllVectors / (task.num_rows * task.group_size);
  const int64_t head_bytes =
      int64_t{2} * kKeyTile * p.head_dim * static_cast<int64_t>(SizeBytes(p.cache.dtype));
  const int64_t heads = std::min({share, by_vectors, kTileBytes / head_bytes});
  return static_cast<int32_t>(std::max<int64_t>(1, heads));
}

/// Cuts each slice into blocks of rows; single rows come last, in order of their first cache block.
std::vector<AttentionRows> CutRows(const AttentionParams& p, int32_t max_rows) {
  const AttentionBatch& batch = *p.batch;
  const int64_t row_bytes = p.q.cols * static_cast<int64_t>(SizeBytes(p.q.dtype));
  std::vector<AttentionRows> parts;
  for (size_t s = 0; s < batch.start_position.size(); ++s) {
    const int32_t begin = batch.row_begin[s], end = batch.row_begin[s + 1];
    for (int32_t row = begin; row < end; row += parts.back().num_rows) {
      parts.push_back({.q = p.q.as<char>() + row * row_bytes,
                       .out = p.out.as<char>() + row * row_bytes,
                       .block_table = batch.block_tables.data() + batch.block_begin[s],
                       .num_rows = std::min(max_rows, end - row),
                       .first_position = batch.start_position[s] + row - begin});
    }
  }
  const auto singles = std::stable_partition(
      parts.begin(), parts.end(), [](const AttentionRows& part) { return part.num_rows > 1; });
  std::stable_sort(singles, parts.end(), [](const AttentionRows& a, const AttentionRows& b) {
    return a.block_table[0] < b.block_table[0];
  });
  return parts;
}

/// Keys in the same blocks that both rows see, at most `most`, in whole tiles; each row sees more
/// keys than these.
int32_t SharedKeys(const AttentionRows& a, const AttentionRows& b, int32_t block_size,
                   int32_t most) {
  const int32_t seen = std::min({a.first_position, b.first_position, most});
  int64_t keys = 0;
  for (int32_t i = 0; keys < seen && a.block_table[i] == b.block_table[i]; ++i) keys += block_size;
  return static_cast<int32_t>(std::min<int64_t>(keys, seen) / kKeyTile * kKeyTile);
}

/// Lets a task of one row take the single rows that come after it, up to max_rows in all, as long
/// as they share most of what the task shares already.
void ExtendTask(const std::vector<AttentionRows>& parts, int32_t max_rows, AttentionTask& task) {
  const AttentionRows* end = parts.data() + parts.size();
  int32_t shared = INT32_MAX;
  for (const AttentionRows* part = task.parts + 1;
       part < end && task.parts->num_rows == 1 && part->num_rows == 1 && task.num_rows < max_rows;
       ++part) {
    const int32_t keys = SharedKeys(*task.parts, *part, task.block_size, shared);
    if (keys == 0 || keys < task.shared_keys / 2) return;
    task.shared_keys = shared = keys;
    ++task.num_parts;
    ++task.num_rows;
  }
}

/// Gives a task to each run of parts that share keys, and cuts its KV heads into runs. Longest
/// tasks come first, so that the threads finish close together. How a call is cut changes no
/// result.
std::vector<AttentionTask> MakeTasks(const AttentionParams& p, int num_threads,
                                     const std::vector<AttentionRows>& parts, int32_t max_rows) {
  const int32_t max_sharers = SharersPerTask(p, max_rows, num_threads);
  std::vector<AttentionTask> runs;
  for (size_t i = 0; i < parts.size(); i += runs.back().num_parts) {
    runs.push_back(CommonTask(p));
    runs.back().parts = &parts[i];
    runs.back().num_parts = 1;
    runs.back().num_rows = parts[i].num_rows;
    ExtendTask(parts, max_sharers, runs.back());
  }
  const int64_t num_runs = static_cast<int64_t>(runs.size());
  const int64_t share = p.num_kv_heads * std::max<int64_t>(2, num_runs) / (2 * num_threads);
  std::vector<AttentionTask> tasks;
  for (AttentionTask& task : runs) {
    const int32_t heads = HeadsPerTask(p, task, share);
    for (int32_t head = 0; head < p.num_kv_heads; head += heads) {
      task.first_kv_head = head;
      task.num_task_heads = std::min(heads, p.num_kv_heads - head);
      tasks.push_back(task);
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
  const int num_threads = context.pool().num_threads();
  const int32_t max_rows = RowsPerTask(p, num_threads);
  const std::vector<AttentionRows> parts = CutRows(p, max_rows);
  const std::vector<AttentionTask> tasks = MakeTasks(p, num_threads, parts, max_rows);
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
