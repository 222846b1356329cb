#include <algorithm>
#include <vector>

#include "config/base/check.h"
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
int64_t ScratchBytes(int64_t num_vectors, int64_t head_dim) {
  const int64_t width = (head_dim + kPanelWidth - 1) / kPanelWidth * kPanelWidth;
  const int64_t vectors = (num_vectors + 15) / 16 * 16;
  return static_cast<int64_t>(sizeof(float)) *
         (2 * vectors * width + 2 * vectors + 2 * kKeyTile * width);
}

/// Some rows of a slice.
struct RowBlock {
  size_t slice;
  int32_t begin;  // row of q
  int32_t end;
};

/// Longest contexts first: the threads then finish close together.
std::vector<RowBlock> MakeBlocks(const AttentionBatch& batch, int32_t rows_per_block) {
  std::vector<RowBlock> blocks;
  for (size_t slice = 0; slice < batch.start_position.size(); ++slice) {
    for (int32_t row = batch.row_begin[slice]; row < batch.row_begin[slice + 1];) {
      const int32_t end = std::min(row + rows_per_block, batch.row_begin[slice + 1]);
      blocks.push_back({slice, row, end});
      row = end;
    }
  }
  auto last_position = [&](const RowBlock& b) {
    return batch.start_position[b.slice] + b.end - batch.row_begin[b.slice];
  };
  std::stable_sort(blocks.begin(), blocks.end(), [&](const RowBlock& a, const RowBlock& b) {
    return last_position(a) > last_position(b);
  });
  return blocks;
}

void CheckBatch(const AttentionParams& p) {
  const AttentionBatch& batch = *p.batch;
  const size_t slices = batch.start_position.size();
  MOED_CHECK(batch.row_begin.size() == slices + 1 && batch.block_begin.size() == slices + 1);
  MOED_CHECK(batch.row_begin[slices] <= p.q.rows);
  for (size_t i = 0; i < slices; ++i) {
    const int64_t keys =
        static_cast<int64_t>(batch.start_position[i]) + batch.row_begin[i + 1] - batch.row_begin[i];
    const int64_t blocks = batch.block_begin[i + 1] - batch.block_begin[i];
    MOED_CHECK(batch.start_position[i] >= 0 && batch.row_begin[i + 1] >= batch.row_begin[i]);
    MOED_CHECK(keys <= INT32_MAX && blocks * p.cache.block_size >= keys);
  }
  for (int32_t block : batch.block_tables) MOED_CHECK(block >= 0 && block < p.cache.num_blocks);
}

}  // namespace

void Attention(CpuContext& context, const AttentionParams& p) {
  CheckBatch(p);
  const AttentionBatch& batch = *p.batch;
  const int32_t group_size = p.num_heads / p.num_kv_heads;
  const int32_t rows_per_block = std::max(1, kAttentionVectors / group_size);
  const std::vector<RowBlock> blocks = MakeBlocks(batch, rows_per_block);
  const AttentionFunction run = FunctionFor(context, p.cache.dtype);
  const int64_t row_bytes = p.q.cols * static_cast<int64_t>(SizeBytes(p.q.dtype));
  context.ReserveScratch(ScratchBytes(rows_per_block * group_size, p.head_dim));
  context.pool().ParallelFor(blocks.size() * p.num_kv_heads, [&](int64_t i, int thread) {
    const RowBlock& block = blocks[i / p.num_kv_heads];
    const int32_t first_row = batch.row_begin[block.slice];
    run({.q = p.q.as<char>() + block.begin * row_bytes,
         .out = p.out.as<char>() + block.begin * row_bytes,
         .q_stride = p.q.cols,
         .k_cache = p.cache.k,
         .v_cache = p.cache.v,
         .block_table = batch.block_tables.data() + batch.block_begin[block.slice],
         .block_size = p.cache.block_size,
         .num_kv_heads = p.num_kv_heads,
         .kv_head = static_cast<int32_t>(i % p.num_kv_heads),
         .group_size = group_size,
         .head_dim = p.head_dim,
         .num_rows = block.end - block.begin,
         .first_position = batch.start_position[block.slice] + block.begin - first_row,
         .scale = p.scale,
         .scratch = context.Scratch(thread)});
  });
}

}  // namespace moed::kernels::cpu
