#pragma once

#include <cstdint>

#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/simd_math_inl.h"

/// One AttentionTask, over the vectors of the simd_*.h included before.
///
/// Flash attention (Dao et al. 2022) over key tiles that start at positions 0, 64, 128, ... What a
/// query vector accumulates depends on its own keys only: keys that it may not see have p = 0,
/// which changes no bit of a sum (cache contents are finite). How a tile is added to some query
/// vectors is up to a `Tiles`: FloatTiles here, Bf16Tiles in attention_tiles_avx512bf16.h.
namespace moed::kernels::cpu {
namespace {

/// A tile of one KV head in a paged cache.
template <typename Cache>
struct KeyRows {
  const Cache* k = nullptr;      // of the head in block 0
  const Cache* v = nullptr;      // as k
  const int64_t* row = nullptr;  // [64] where a key's row begins, from k and v; the last repeats
  int num_keys = 0;
};

/// Fetches element d of a key or value row into cache.
template <typename Cache>
inline void Prefetch(const Cache* base, int64_t row, int d) {
  __builtin_prefetch(base + row + d, 0, 2);
}

/// Some query vectors of one KV head and their state.
template <typename Elem>
struct VectorBlock {
  const Elem* q = nullptr;  // [count, head_dim]
  float* acc = nullptr;     // [count, width], the unnormalised output
  float* max = nullptr;     // [count] of the scores so far
  float* sum = nullptr;     // [count, kLanes] of p, to be added up at the end
  int count = 0;
  int head_dim = 0;
  int width = 0;       // head_dim rounded up to 64
  float scale = 1.0f;  // of scores
  // Keys of the tile that vector i sees: first_seen + (first_vector + i) / group_size, at most 64.
  int first_seen = 0;
  int first_vector = 0;
  int group_size = 1;  // query vectors of one row

  int Seen(int i) const {
    const int seen = first_seen + (first_vector + i) / group_size;
    return seen < kKeyTile ? seen : kKeyTile;
  }
};

inline int RoundUp(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

/// Where a task's working arrays lie in its scratch; V is the number of query vectors, D head_dim.
template <typename Elem>
struct AttentionArrays {
  float* acc;    // [V, D rounded up to 64]
  float* sum;    // [V, kLanes]
  float* max;    // [V]
  Elem* q;       // [V, D]
  Elem* keys;    // panels of a tile, for all heads in turn: [D, 64]
  Elem* values;  // [D / 64, 64, 64]
};

/// The arrays of the task's head number `head`; all heads share those of keys and values.
template <typename Elem>
AttentionArrays<Elem> HeadArrays(const AttentionTask& task, int head) {
  const int64_t width = RoundUp(task.head_dim, kPanelWidth);
  const int64_t vectors = RoundUp(task.num_rows * task.group_size, 16);
  const int64_t head_floats = vectors * (2 * width + kLanes + 1);
  AttentionArrays<Elem> a;
  a.keys = static_cast<Elem*>(task.scratch);
  a.values = a.keys + kKeyTile * width;
  a.acc = reinterpret_cast<float*>(a.values + kKeyTile * width) + head * head_floats;
  a.sum = a.acc + vectors * width;
  a.max = a.sum + vectors * kLanes;
  a.q = reinterpret_cast<Elem*>(a.max + vectors);
  return a;
}

/// The task of one of its heads alone.
inline AttentionTask OneHead(const AttentionTask& task, int head) {
  AttentionTask one = task;
  one.first_kv_head += head;
  one.num_task_heads = 1;
  return one;
}

/// Where the rows of keys [first_key, first_key + num_keys) of KV head 0 begin in a cache.
inline void FindRows(const AttentionTask& task, int first_key, int num_keys, int64_t* row) {
  const int64_t block_elements =
      static_cast<int64_t>(task.num_kv_heads) * task.block_size * task.head_dim;
  int block = first_key / task.block_size, offset = first_key % task.block_size;
  for (int j = 0; j < num_keys; ++block, offset = 0) {
    int64_t at =
        task.block_table[block] * block_elements + static_cast<int64_t>(offset) * task.head_dim;
    for (; offset < task.block_size && j < num_keys; ++offset, at += task.head_dim) row[j++] = at;
  }
  for (int j = num_keys; j < kKeyTile; ++j) row[j] = row[num_keys - 1];
}

template <typename Cache>
KeyRows<Cache> RowsOfHead(const AttentionTask& task, int head, const int64_t* row, int num_keys) {
  const int64_t offset =
      static_cast<int64_t>(task.first_kv_head + head) * task.block_size * task.head_dim;
  return {.k = static_cast<const Cache*>(task.k_cache) + offset,
          .v = static_cast<const Cache*>(task.v_cache) + offset,
          .row = row,
          .num_keys = num_keys};
}

template <typename Tiles, typename X>
void LoadQueries(const AttentionTask& task, const AttentionArrays<typename Tiles::Elem>& a) {
  const int width = RoundUp(task.head_dim, kPanelWidth);
  for (int v = 0; v < task.num_rows * task.group_size; ++v) {
    const int head = task.first_kv_head * task.group_size + v % task.group_size;
    const X* q = static_cast<const X*>(task.q) + (v / task.group_size) * task.q_stride +
                 static_cast<int64_t>(head) * task.head_dim;
    Tiles::LoadQuery(q, task.head_dim, a.q + v * task.head_dim);
    for (int d = 0; d < width; d += kLanes) Store(a.acc + v * width + d, Zero());
    Store(a.sum + v * kLanes, Zero());
    a.max[v] = -__builtin_inff();
  }
}

template <typename X, typename Elem>
void StoreOutputs(const AttentionTask& task, const AttentionArrays<Elem>& a) {
  const int width = RoundUp(task.head_dim, kPanelWidth);
  for (int v = 0; v < task.num_rows * task.group_size; ++v) {
    const int head = task.first_kv_head * task.group_size + v % task.group_size;
    X* out = static_cast<X*>(task.out) + (v / task.group_size) * task.q_stride +
             static_cast<int64_t>(head) * task.head_dim;
    const Vec scale = Set(1.0f / Sum(Load(a.sum + v * kLanes)));
    for (int d = 0; d < task.head_dim; d += kLanes) {
      // p = 0 of keys not seen may have turned a -0 into 0: make it always so.
      const Vec y = Add(Mul(Load(a.acc + v * width + d), scale), Zero());
      StoreFirst(out + d, y, task.head_dim - d);
    }
  }
}

/// The block of a head's query vectors from `first` on; what they see of the tile at first_key.
template <typename Elem>
VectorBlock<Elem> MakeBlock(const AttentionTask& task, const AttentionArrays<Elem>& a,
                            int first_key, int first, int count) {
  const int width = RoundUp(task.head_dim, kPanelWidth);
  return {.q = a.q + first * task.head_dim,
          .acc = a.acc + first * width,
          .max = a.max + first,
          .sum = a.sum + first * kLanes,
          .count = count,
          .head_dim = task.head_dim,
          .width = width,
          .scale = task.scale,
          .first_seen = task.first_position + 1 - first_key,
          .first_vector = first,
          .group_size = task.group_size};
}

/// Adds one tile of keys of one head to all query vectors that may see it, and fetches `ahead`, the
/// tile that comes next, meanwhile. Few vectors take the tile from the cache, more from a packed
/// copy: with the same result.
template <typename Tiles, typename Cache>
void RunTile(const AttentionTask& task, const AttentionArrays<typename Tiles::Elem>& a,
             int first_key, const KeyRows<Cache>& rows, const KeyRows<Cache>& ahead) {
  // The first row that sees a key of this tile stands at the tile's first position.
  const int skipped = first_key > task.first_position ? first_key - task.first_position : 0;
  const int begin = skipped * task.group_size, end = task.num_rows * task.group_size;
  if constexpr (Tiles::kMaxRowVectors > 0) {
    if (end - begin <= Tiles::kMaxRowVectors) {
      return Tiles::AddRows(MakeBlock(task, a, first_key, begin, end - begin), rows, ahead);
    }
  }
  Tiles::Pack(rows, ahead, task.head_dim, a.keys, a.values);
  // Blocks of nearly equal height: 32 vectors are 6+6+5+5+5+5, not 5 * 6 + 2.
  int blocks = (end - begin + Tiles::kMaxVectors - 1) / Tiles::kMaxVectors;
  for (int v = begin, count = 0; v < end; v += count, --blocks) {
    count = (end - v + blocks - 1) / blocks;
    Tiles::AddPanels(MakeBlock(task, a, first_key, v, count), a.keys, a.values);
  }
}

/// Fetches a tile into cache, as fast as memory gives it.
template <typename Cache>
void PrefetchTile(const KeyRows<Cache>& rows, int head_dim) {
  constexpr int kLine = 64 / sizeof(Cache);
  const Cache* const bases[] = {rows.k, rows.v};
  for (const Cache* base : bases) {
    for (int j = 0; j < rows.num_keys; ++j) {
      for (int d = 0; d < head_dim; d += kLine) Prefetch(base, rows.row[j], d);
    }
  }
}

/// All heads take part in a tile before the next one: in a block their keys are neighbours in
/// memory.
template <typename Tiles, typename X, typename Cache>
void RunAttention(const AttentionTask& task) {
  using Elem = typename Tiles::Elem;
  int64_t row[2][kKeyTile];
  const int num_keys = task.first_position + task.num_rows;
  int count = num_keys < kKeyTile ? num_keys : kKeyTile;
  FindRows(task, 0, count, row[0]);
  PrefetchTile(RowsOfHead<Cache>(task, 0, row[0], count), task.head_dim);
  for (int h = 0; h < task.num_task_heads; ++h) {
    LoadQueries<Tiles, X>(OneHead(task, h), HeadArrays<Elem>(task, h));
  }
  for (int first_key = 0, now = 0; first_key < num_keys; first_key += kKeyTile, now ^= 1) {
    const int next = first_key + kKeyTile;
    const int next_count = num_keys - next < kKeyTile ? num_keys - next : kKeyTile;
    if (next < num_keys) FindRows(task, next, next_count, row[now ^ 1]);
    for (int h = 0; h < task.num_task_heads; ++h) {
      const auto rows = RowsOfHead<Cache>(task, h, row[now], count);
      auto ahead = rows;
      if (h + 1 < task.num_task_heads) {
        ahead = RowsOfHead<Cache>(task, h + 1, row[now], count);
      } else if (next < num_keys) {
        ahead = RowsOfHead<Cache>(task, 0, row[now ^ 1], next_count);
      }
      RunTile<Tiles, Cache>(OneHead(task, h), HeadArrays<Elem>(task, h), first_key, rows, ahead);
    }
    count = next_count;
  }
  for (int h = 0; h < task.num_task_heads; ++h) {
    StoreOutputs<X>(OneHead(task, h), HeadArrays<Elem>(task, h));
  }
}

}  // namespace
}  // namespace moed::kernels::cpu
