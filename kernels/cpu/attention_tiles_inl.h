#pragma once

#include <cstdint>

#include "kernels/cpu/attention_inl.h"
#include "kernels/cpu/gemm_tile_inl.h"

/// Tiles of attention in float32, for every instruction set and every format of q and the cache.
namespace moed::kernels::cpu {
namespace {

/// Turns scores [64] of one query vector, of which num_keys count, into p = exp(scale * score -
/// max) with zeros beyond. Returns what the sums so far must be multiplied with.
inline float UpdateSoftmax(float* scores, int num_keys, float scale, float* max, float* sum) {
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
  Store(sum, Fma(Load(sum), Set(factor[0]), total));
  return factor[0];
}

/// A tile's keys and values are packed as panels, so that q k^T and p v are products of the GEMM's
/// inner kernel.
struct FloatTiles {
  using Elem = float;
  static constexpr int kMaxVectors = VectorTile::kMaxRows;
  static constexpr int kMaxRowVectors = 0;  // always packs

  template <typename X>
  static void LoadQuery(const X* q, int head_dim, float* out) {
    for (int d = 0; d < head_dim; d += kLanes) {
      StoreFirst(out + d, LoadFirst(q + d, head_dim - d), head_dim - d);
    }
  }

  /// Keys -> panel [head_dim, 64], zero from num_keys on; values -> head_dim / 64 panels [64, 64],
  /// zero from head_dim on.
  template <typename Cache>
  static void Pack(const KeyRows<Cache>& rows, const KeyRows<Cache>& ahead, int head_dim,
                   float* keys, float* values) {
    for (int j = 0; j < kKeyTile; j += kLanes) PackKeys(rows, ahead, head_dim, j, keys + j);
    constexpr int kLine = 64 / sizeof(Cache);
    for (int begin = 0; begin < head_dim; begin += kPanelWidth, values += kKeyTile * kPanelWidth) {
      for (int j = 0; j < rows.num_keys; ++j) {
        const Cache* row = rows.v + rows.row[j];
        for (int d = begin; d < begin + kPanelWidth; d += kLanes) {
          if (d % kLine == 0 && d < head_dim) Prefetch(ahead.v, ahead.row[j], d);
          const int n = head_dim - d;
          Store(values + j * kPanelWidth + d - begin, n > 0 ? LoadFirst(row + d, n) : Zero());
        }
      }
    }
  }

  static void AddPanels(const VectorBlock<float>& block, const float* keys, const float* values) {
    alignas(64) float scores[kMaxVectors * kKeyTile];
    alignas(64) float p[kMaxVectors * kKeyTile];
    const float* rows[kMaxVectors] = {};
    float factor[kMaxVectors] = {};
    for (int i = 0; i < block.count; ++i) rows[i] = block.q + i * block.head_dim;
    VectorTile::Compute(rows, {block.count, block.head_dim}, keys, p);
    for (int i = 0; i < block.count; ++i) {
      rows[i] = p + i * kKeyTile;
      factor[i] = UpdateSoftmax(p + i * kKeyTile, block.Seen(i), block.scale, block.max + i,
                                block.sum + i * kLanes);
    }
    const int most_keys = block.Seen(block.count - 1);
    for (int d = 0; d < block.width; d += kPanelWidth) {
      VectorTile::Compute(rows, {block.count, most_keys}, values + d * kKeyTile, scores);
      for (int i = 0; i < block.count; ++i) {
        float* acc = block.acc + i * block.width + d;
        for (int c = 0; c < kPanelWidth; c += kLanes) {
          const Vec y = Load(scores + i * kPanelWidth + c);
          Store(acc + c, Fma(Load(acc + c), Set(factor[i]), y));
        }
      }
    }
  }

 private:
  /// kLanes keys from number j on.
  template <typename Cache>
  static void PackKeys(const KeyRows<Cache>& rows, const KeyRows<Cache>& ahead, int head_dim, int j,
                       float* out) {
    constexpr int kLine = 64 / sizeof(Cache);
    for (int d = 0; d < head_dim; d += kLanes) {
      Vec v[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        if (d % kLine == 0) Prefetch(ahead.k, ahead.row[j + i], d);
        v[i] =
            j + i < rows.num_keys ? LoadFirst(rows.k + rows.row[j + i] + d, head_dim - d) : Zero();
      }
      Transpose(v);
      const int n = head_dim - d < kLanes ? head_dim - d : kLanes;
      for (int i = 0; i < n; ++i) Store(out + (d + i) * kPanelWidth, v[i]);
    }
  }
};

}  // namespace
}  // namespace moed::kernels::cpu
