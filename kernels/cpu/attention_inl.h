#pragma once

#include <cstdint>

#include "kernels/cpu/gemm_tile_inl.h"
#include "kernels/cpu/kernel_table.h"

/// One AttentionTask, over the vectors of the simd_*.h included before.
///
/// Flash attention (Dao et al. 2022) over key tiles that start at positions 0, 64, 128, ...: a
/// tile's keys and values are packed as panels, so that q k^T and p v are products of the GEMM's
/// inner kernel. What a query vector accumulates depends on its own keys only: keys that it may not
/// see have p = 0, which changes no bit of a sum (cache contents are finite).
namespace moed::kernels::cpu {
namespace {

/// Query vectors and tiles in float32.
struct FloatTiles {
  using Elem = float;

  static Elem FromFloat(float x) { return x; }

  /// keys [64, head_dim] at row pointers -> panel [head_dim, 64]; keys from num_keys on are zero.
  template <typename Cache>
  static void PackKeys(const Cache* const* keys, int num_keys, int head_dim, Elem* panel) {
    for (int j = 0; j < kKeyTile; ++j) {
      for (int d = 0; d < head_dim; ++d) {
        panel[d * kPanelWidth + j] = j < num_keys ? ToFloat(keys[j][d]) : 0.0f;
      }
    }
  }

  /// values [64, head_dim] at row pointers -> head_dim / 64 panels [64, 64], zero-padded.
  template <typename Cache>
  static void PackValues(const Cache* const* values, int num_keys, int head_dim, Elem* panels) {
    for (int begin = 0; begin < head_dim; begin += kPanelWidth, panels += kKeyTile * kPanelWidth) {
      for (int j = 0; j < num_keys; ++j) {
        for (int d = 0; d < kPanelWidth; d += kLanes) {
          const int n = head_dim - begin - d;
          const Vec v = n > 0 ? LoadFirst(values[j] + begin + d, n) : Zero();
          Store(panels + j * kPanelWidth + d, v);
        }
      }
    }
  }

  static void PackProbabilities(const float* p, Elem* out) {
    for (int j = 0; j < kKeyTile; j += kLanes) Store(out + j, Load(p + j));
  }

  static int PaddedKeys(int num_keys) { return num_keys; }
};

/// Where a task's working arrays lie in its scratch; V is the number of query vectors, D head_dim.
template <typename Elem>
struct AttentionArrays {
  float* acc;    // [V, D rounded up to 64], the unnormalised output
  float* max;    // [V] of the scores so far
  float* sum;    // [V] of exp(score - max)
  Elem* q;       // [V, D]
  Elem* keys;    // [D, 64]
  Elem* values;  // [D / 64, 64, 64]
};

inline int RoundUp(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

/// The arrays of the task's head number `head`; all heads share those of keys and values.
template <typename Elem>
AttentionArrays<Elem> HeadArrays(const AttentionTask& task, int head) {
  const int64_t width = RoundUp(task.head_dim, kPanelWidth);
  const int64_t vectors = RoundUp(task.num_rows * task.group_size, 16);
  const int64_t head_floats = 2 * vectors * width + 2 * vectors;
  AttentionArrays<Elem> a;
  a.keys = static_cast<Elem*>(task.scratch);
  a.values = a.keys + kKeyTile * width;
  a.acc = reinterpret_cast<float*>(a.values + kKeyTile * width) + head * head_floats;
  a.max = a.acc + vectors * width;
  a.sum = a.max + vectors;
  a.q = reinterpret_cast<Elem*>(a.sum + vectors);
  return a;
}

/// The task of one of its heads alone.
inline AttentionTask OneHead(const AttentionTask& task, int head) {
  AttentionTask one = task;
  one.first_kv_head += head;
  one.num_task_heads = 1;
  return one;
}

/// The rows of keys [first_key, first_key + num_keys) of the first head in a cache (k or v).
template <typename Cache>
void FindRows(const AttentionTask& task, const void* cache, int first_key, int num_keys,
              const Cache** rows) {
  const Cache* base = static_cast<const Cache*>(cache);
  int block = first_key / task.block_size, offset = first_key % task.block_size;
  for (int j = 0; j < num_keys; ++block, offset = 0) {
    const int64_t head =
        static_cast<int64_t>(task.block_table[block]) * task.num_kv_heads + task.first_kv_head;
    const Cache* row = base + (head * task.block_size + offset) * task.head_dim;
    for (; offset < task.block_size && j < num_keys; ++offset, row += task.head_dim) {
      rows[j++] = row;
    }
  }
}

/// Reads a byte of each cache line of [from, to) of memory.
inline void Touch(const void* base, int64_t from, int64_t to) {
  const volatile char* bytes = static_cast<const volatile char*>(base);
  for (int64_t at = from; at < to; at += 64) (void)bytes[at];
}

/// Brings the tile at first_key into cache, all heads of it, in the order of memory, and nothing
/// else of its blocks: a block may be longer than a tile. Long runs of loads are what the
/// hardware's prefetcher follows: packing head by head right from memory takes up to twice as long,
/// and prefetch instructions ahead of time do not help.
template <typename Cache>
void TouchTile(const AttentionTask& task, int first_key, int num_keys) {
  const void* const caches[] = {task.k_cache, task.v_cache};
  const int64_t row_bytes = task.head_dim * static_cast<int64_t>(sizeof(Cache));
  const int last_block = (first_key + num_keys - 1) / task.block_size;
  for (int i = first_key / task.block_size; i <= last_block; ++i) {
    const int first = first_key - i * task.block_size, last = first + num_keys;
    const int begin = first > 0 ? first : 0;
    const int end = last < task.block_size ? last : task.block_size;
    const int64_t head =
        static_cast<int64_t>(task.block_table[i]) * task.num_kv_heads + task.first_kv_head;
    for (const void* cache : caches) {
      for (int h = 0; h < task.num_task_heads; ++h) {
        const int64_t row = (head + h) * task.block_size;
        Touch(cache, (row + begin) * row_bytes, (row + end) * row_bytes);
      }
    }
  }
}

/// Turns scores [64] of one query vector, of which num_keys count, into exp(scale * score - max)
/// with zeros beyond. Returns what the sums so far must be multiplied with.
template <typename Elem>
float UpdateSoftmax(float* scores, int num_keys, float scale, float* max, float* sum) {
  const float minus_infinity = -__builtin_inff();
  for (int j = num_keys; j < kKeyTile; ++j) scores[j] = minus_infinity;
  Vec best = Set(minus_infinity);
  for (int j = 0; j < kKeyTile; j += kLanes) {
    const Vec s = Mul(Load(scores + j), Set(scale));
    Store(scores + j, s);
    best = Max(best, s);
  }
  const float old_max = *max;
  const float tile_max = MaxLane(best);
  const float new_max = tile_max > old_max ? tile_max : old_max;
  Vec total = Zero();
  for (int j = 0; j < kKeyTile; j += kLanes) {
    const Vec p = Exp(Sub(Load(scores + j), Set(new_max)));
    Store(scores + j, p);
    total = Add(total, p);
  }
  for (int j = num_keys; j < kKeyTile; ++j) scores[j] = 0.0f;
  float factor[kLanes];
  Store(factor, Exp(Set(old_max - new_max)));
  *max = new_max;
  *sum = *sum * factor[0] + Sum(total);
  return factor[0];
}

/// Adds one tile of keys to the query vectors [begin, begin + count).
template <typename Tile, typename Tiles>
void AddTile(const AttentionTask& task, const AttentionArrays<typename Tiles::Elem>& a,
             int first_key, int begin, int count) {
  using Elem = typename Tiles::Elem;
  alignas(64) float scores[Tile::kMaxRows * kKeyTile];
  alignas(64) Elem p[Tile::kMaxRows * kKeyTile];
  const int width = RoundUp(task.head_dim, kPanelWidth);
  const Elem* rows[Tile::kMaxRows] = {};
  float factor[Tile::kMaxRows] = {};
  int most_keys = 0;
  for (int i = 0; i < count; ++i) rows[i] = a.q + (begin + i) * task.head_dim;
  Tile::Compute(rows, count, a.keys, task.head_dim, scores);
  for (int i = 0; i < count; ++i) {
    const int v = begin + i;
    const int seen = task.first_position + v / task.group_size + 1 - first_key;
    const int num_keys = seen < kKeyTile ? seen : kKeyTile;
    float* s = scores + i * kKeyTile;
    factor[i] = UpdateSoftmax<Elem>(s, num_keys, task.scale, a.max + v, a.sum + v);
    Tiles::PackProbabilities(s, p + i * kKeyTile);
    rows[i] = p + i * kKeyTile;
    most_keys = num_keys > most_keys ? num_keys : most_keys;
  }
  for (int d = 0; d < width; d += kPanelWidth) {
    Tile::Compute(rows, count, a.values + d * kKeyTile, Tiles::PaddedKeys(most_keys), scores);
    for (int i = 0; i < count; ++i) {
      float* acc = a.acc + (begin + i) * width + d;
      for (int c = 0; c < kPanelWidth; c += kLanes) {
        const Vec y = Load(scores + i * kPanelWidth + c);
        Store(acc + c, Fma(Load(acc + c), Set(factor[i]), y));
      }
    }
  }
}

template <typename Tiles, typename X>
void LoadQueries(const AttentionTask& task, const AttentionArrays<typename Tiles::Elem>& a) {
  const int width = RoundUp(task.head_dim, kPanelWidth);
  for (int v = 0; v < task.num_rows * task.group_size; ++v) {
    const int head = task.first_kv_head * task.group_size + v % task.group_size;
    const X* q = static_cast<const X*>(task.q) + (v / task.group_size) * task.q_stride +
                 static_cast<int64_t>(head) * task.head_dim;
    for (int d = 0; d < task.head_dim; ++d) {
      a.q[v * task.head_dim + d] = Tiles::FromFloat(ToFloat(q[d]));
    }
    for (int d = 0; d < width; d += kLanes) Store(a.acc + v * width + d, Zero());
    a.max[v] = -__builtin_inff();
    a.sum[v] = 0.0f;
  }
}

template <typename X, typename Elem>
void StoreOutputs(const AttentionTask& task, const AttentionArrays<Elem>& a) {
  const int width = RoundUp(task.head_dim, kPanelWidth);
  for (int v = 0; v < task.num_rows * task.group_size; ++v) {
    const int head = task.first_kv_head * task.group_size + v % task.group_size;
    X* out = static_cast<X*>(task.out) + (v / task.group_size) * task.q_stride +
             static_cast<int64_t>(head) * task.head_dim;
    const Vec scale = Set(1.0f / a.sum[v]);
    for (int d = 0; d < task.head_dim; d += kLanes) {
      StoreFirst(out + d, Mul(Load(a.acc + v * width + d), scale), task.head_dim - d);
    }
  }
}

/// Packs one tile of keys of one head and adds it to all query vectors that may see it.
template <typename Tile, typename Tiles, typename Cache>
void RunTile(const AttentionTask& task, const AttentionArrays<typename Tiles::Elem>& a,
             int first_key, int num_keys) {
  const Cache* rows[kKeyTile];
  FindRows(task, task.k_cache, first_key, num_keys, rows);
  Tiles::PackKeys(rows, num_keys, task.head_dim, a.keys);
  FindRows(task, task.v_cache, first_key, num_keys, rows);
  Tiles::PackValues(rows, num_keys, task.head_dim, a.values);
  // The first row that sees a key of this tile stands at the tile's first position.
  const int skipped = first_key > task.first_position ? first_key - task.first_position : 0;
  const int num_vectors = task.num_rows * task.group_size;
  for (int v = skipped * task.group_size; v < num_vectors; v += Tile::kMaxRows) {
    const int rest = num_vectors - v;
    AddTile<Tile, Tiles>(task, a, first_key, v, rest < Tile::kMaxRows ? rest : Tile::kMaxRows);
  }
}

/// All heads take part in a tile before the next one: in a block their keys are neighbours in
/// memory, so that a task reads long runs.
template <typename Tile, typename Tiles, typename X, typename Cache>
void RunAttention(const AttentionTask& task) {
  using Elem = typename Tiles::Elem;
  for (int h = 0; h < task.num_task_heads; ++h) {
    LoadQueries<Tiles, X>(OneHead(task, h), HeadArrays<Elem>(task, h));
  }
  const int num_keys = task.first_position + task.num_rows;
  for (int first_key = 0; first_key < num_keys; first_key += kKeyTile) {
    const int count = num_keys - first_key < kKeyTile ? num_keys - first_key : kKeyTile;
    TouchTile<Cache>(task, first_key, count);
    for (int h = 0; h < task.num_task_heads; ++h) {
      RunTile<Tile, Tiles, Cache>(OneHead(task, h), HeadArrays<Elem>(task, h), first_key, count);
    }
  }
  for (int h = 0; h < task.num_task_heads; ++h) {
    StoreOutputs<X>(OneHead(task, h), HeadArrays<Elem>(task, h));
  }
}

}  // namespace
}  // namespace moed::kernels::cpu
