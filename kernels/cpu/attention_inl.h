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
inline void FindRows(const AttentionTask& task, const int32_t* block_table, int first_key,
                     int num_keys, int64_t* row) {
  const int64_t block_elements =
      static_cast<int64_t>(task.num_kv_heads) * task.block_size * task.head_dim;
  int block = first_key / task.block_size, offset = first_key % task.block_size;
  for (int j = 0; j < num_keys; ++block, offset = 0) {
    int64_t at = block_table[block] * block_elements + static_cast<int64_t>(offset) * task.head_dim;
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

/// Fills the query vectors of `rows`, which are those from number `first` on in a head's arrays.
template <typename Tiles, typename X>
void LoadQueries(const AttentionTask& task, const AttentionRows& rows,
                 const AttentionArrays<typename Tiles::Elem>& a, int first) {
  const int width = RoundUp(task.head_dim, kPanelWidth);
  for (int i = 0; i < rows.num_rows * task.group_size; ++i) {
    const int head = task.first_kv_head * task.group_size + i % task.group_size, v = first + i;
    const X* q = static_cast<const X*>(rows.q) + (i / task.group_size) * task.q_stride +
                 static_cast<int64_t>(head) * task.head_dim;
    Tiles::LoadQuery(q, task.head_dim, a.q + v * task.head_dim);
    for (int d = 0; d < width; d += kLanes) Store(a.acc + v * width + d, Zero());
    Store(a.sum + v * kLanes, Zero());
    a.max[v] = -__builtin_inff();
  }
}

/// Writes what the query vectors of `rows`, as in LoadQueries, came to.
template <typename X, typename Elem>
void StoreOutputs(const AttentionTask& task, const AttentionRows& rows,
                  const AttentionArrays<Elem>& a, int first) {
  const int width = RoundUp(task.head_dim, kPanelWidth);
  for (int i = 0; i < rows.num_rows * task.group_size; ++i) {
    const int head = task.first_kv_head * task.group_size + i % task.group_size, v = first + i;
    X* out = static_cast<X*>(rows.out) + (i / task.group_size) * task.q_stride +
             static_cast<int64_t>(head) * task.head_dim;
    const Vec scale = Set(1.0f / Sum(Load(a.sum + v * kLanes)));
    for (int d = 0; d < task.head_dim; d += kLanes) {
      // p = 0 of keys not seen may have turned a -0 into 0: make it always so.
      const Vec y = Add(Mul(Load(a.acc + v * width + d), scale), Zero());
      StoreFirst(out + d, y, task.head_dim - d);
    }
  }
}

/// Query vectors of a head's arrays, and the keys that are added to them.
struct Walk {
  const int32_t* block_table = nullptr;
  int first_vector = 0;
  int num_rows = 0;
  int first_position = 0;  // of the first row, which sees the keys up to it
  int first_key = 0;
  int end_key = 0;

  int TileKeys(int key) const { return end_key - key < kKeyTile ? end_key - key : kKeyTile; }
};

/// Walk number `i` of a task: 0 is over the shared keys with all vectors, i > 0 over the rest of
/// part i - 1.
inline Walk FindWalk(const AttentionTask& task, int i) {
  if (i == 0) {
    return {.block_table = task.parts[0].block_table,
            .num_rows = task.num_rows,
            .first_position = task.shared_keys - 1,
            .end_key = task.shared_keys};
  }
  const AttentionRows& part = task.parts[i - 1];
  Walk walk = {.block_table = part.block_table,
               .num_rows = part.num_rows,
               .first_position = part.first_position,
               .first_key = task.shared_keys,
               .end_key = part.first_position + part.num_rows};
  for (int j = 0; j < i - 1; ++j) walk.first_vector += task.parts[j].num_rows * task.group_size;
  return walk;
}

/// Query vectors from number `first` on of a head's arrays, and what they see of the tile at
/// first_key; their count is left to the caller.
template <typename Elem>
VectorBlock<Elem> MakeBlock(const AttentionTask& task, const Walk& walk,
                            const AttentionArrays<Elem>& a, int first_key, int first) {
  const int width = RoundUp(task.head_dim, kPanelWidth);
  return {.q = a.q + first * task.head_dim,
          .acc = a.acc + first * width,
          .max = a.max + first,
          .sum = a.sum + first * kLanes,
          .head_dim = task.head_dim,
          .width = width,
          .scale = task.scale,
          .first_seen = walk.first_position + 1 - first_key,
          .first_vector = first - walk.first_vector,
          .group_size = task.group_size};
}

/// A tile, and the one that comes next and is fetched meanwhile.
template <typename Cache>
struct TileStep {
  int first_key = 0;
  KeyRows<Cache> rows;
  KeyRows<Cache> ahead;
};

/// Adds a tile of one head to all query vectors of a walk that may see it. Few vectors take the
/// tile from the cache, more from a packed copy: with the same result.
template <typename Tiles, typename Cache>
void RunTile(const AttentionTask& task, const Walk& walk,
             const AttentionArrays<typename Tiles::Elem>& a, const TileStep<Cache>& tile) {
  // The first row that sees a key of this tile stands at the tile's first position.
  const int skipped =
      tile.first_key > walk.first_position ? tile.first_key - walk.first_position : 0;
  const int begin = walk.first_vector + skipped * task.group_size;
  const int end = walk.first_vector + walk.num_rows * task.group_size;
  if constexpr (Tiles::kMaxRowVectors > 0) {
    if (end - begin <= Tiles::kMaxRowVectors) {
      auto block = MakeBlock(task, walk, a, tile.first_key, begin);
      block.count = end - begin;
      return Tiles::AddRows(block, tile.rows, tile.ahead);
    }
  }
  Tiles::Pack(tile.rows, tile.ahead, task.head_dim, a.keys, a.values);
  // Blocks of nearly equal height: 32 vectors are 6+6+5+5+5+5, not 5 * 6 + 2.
  int blocks = (end - begin + Tiles::kMaxVectors - 1) / Tiles::kMaxVectors;
  for (int v = begin; v < end; --blocks) {
    auto block = MakeBlock(task, walk, a, tile.first_key, v);
    block.count = (end - v + blocks - 1) / blocks;
    Tiles::AddPanels(block, a.keys, a.values);
    v += block.count;
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

/// Where the rows of the tile at hand and of the next one begin.
struct RowBuffers {
  int64_t row[2][kKeyTile];
  int now = 0;

  int64_t* current() { return row[now]; }
  int64_t* next() { return row[now ^ 1]; }
};

/// Adds all tiles of a walk, the rows of the first of which are in `buffers`; finds those of the
/// first tile of the next walk, if there is one. All heads take part in a tile before the next one:
/// in a block their keys are neighbours in memory.
template <typename Tiles, typename Cache>
void RunWalk(const AttentionTask& task, const Walk& walk, const Walk* next_walk,
             RowBuffers& buffers) {
  for (int key = walk.first_key; key < walk.end_key; key += kKeyTile) {
    const Walk* after = key + kKeyTile < walk.end_key ? &walk : next_walk;
    const int next_key = after == &walk ? key + kKeyTile : after != nullptr ? after->first_key : 0;
    const int next_count = after != nullptr ? after->TileKeys(next_key) : 0;
    if (after != nullptr) {
      FindRows(task, after->block_table, next_key, next_count, buffers.next());
    }
    for (int h = 0; h < task.num_task_heads; ++h) {
      TileStep<Cache> tile;
      tile.first_key = key;
      tile.rows = RowsOfHead<Cache>(task, h, buffers.current(), walk.TileKeys(key));
      tile.ahead = tile.rows;
      if (h + 1 < task.num_task_heads) {
        tile.ahead = RowsOfHead<Cache>(task, h + 1, buffers.current(), walk.TileKeys(key));
      } else if (after != nullptr) {
        tile.ahead = RowsOfHead<Cache>(task, 0, buffers.next(), next_count);
      }
      RunTile<Tiles, Cache>(task, walk, HeadArrays<typename Tiles::Elem>(task, h), tile);
    }
    buffers.now ^= 1;
  }
}

template <typename Tiles, typename X, typename Cache>
void RunAttention(const AttentionTask& task) {
  using Elem = typename Tiles::Elem;
  RowBuffers buffers;
  int i = task.shared_keys > 0 ? 0 : 1;
  Walk walk = FindWalk(task, i);
  const int count = walk.TileKeys(walk.first_key);
  FindRows(task, walk.block_table, walk.first_key, count, buffers.current());
  PrefetchTile(RowsOfHead<Cache>(task, 0, buffers.current(), count), task.head_dim);
  for (int part = 0, v = 0; part < task.num_parts; ++part) {
    for (int h = 0; h < task.num_task_heads; ++h) {
      LoadQueries<Tiles, X>(OneHead(task, h), task.parts[part], HeadArrays<Elem>(task, h), v);
    }
    v += task.parts[part].num_rows * task.group_size;
  }
  for (; i <= task.num_parts; ++i) {
    const Walk next = i < task.num_parts ? FindWalk(task, i + 1) : Walk{};
    RunWalk<Tiles, Cache>(task, walk, i < task.num_parts ? &next : nullptr, buffers);
    walk = next;
  }
  for (int part = 0, v = 0; part < task.num_parts; ++part) {
    for (int h = 0; h < task.num_task_heads; ++h) {
      StoreOutputs<X>(OneHead(task, h), task.parts[part], HeadArrays<Elem>(task, h), v);
    }
    v += task.parts[part].num_rows * task.group_size;
  }
}

}  // namespace
}  // namespace moed::kernels::cpu
