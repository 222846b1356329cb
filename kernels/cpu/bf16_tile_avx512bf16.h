#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/gemm_tile_inl.h"
#include "kernels/cpu/kernel_table.h"

/// The inner product on AVX-512 BF16's dot product instruction. Internal linkage throughout.
namespace moed::kernels::cpu {
namespace {

inline __m512bh LoadBf16Pairs(const uint16_t* p) {
  return reinterpret_cast<__m512bh>(_mm512_loadu_si512(p));
}

/// Elements i and i + 1 of x in every lane.
inline __m512bh BroadcastPair(const uint16_t* x, int64_t i) {
  int32_t pair;
  memcpy(&pair, x + i, sizeof(pair));
  return reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
}

constexpr int kTileVecs = kPanelWidth / 16;
static_assert(kTileVecs == kBlockVecs);

/// One pair of k for R rows: acc += x pair . panel pair.
template <int R, typename Broadcast>
inline void DotPair(const Broadcast& broadcast, const uint16_t* panel, __m512 (*acc)[kTileVecs]) {
  __m512bh b[kTileVecs];
  for (int v = 0; v < kTileVecs; ++v) b[v] = LoadBf16Pairs(panel + 32 * v);
  for (int r = 0; r < R; ++r) {
    const __m512bh a = broadcast(r);
    for (int v = 0; v < kTileVecs; ++v) acc[r][v] = _mm512_dpbf16_ps(acc[r][v], a, b[v]);
  }
}

template <int R>
inline void DotRows(const uint16_t* const* x, const uint16_t* panel, int64_t k,
                    const TileMode& mode, float* tile) {
  __m512 acc[R][kTileVecs];
  LoadTile<R>(tile, mode, acc);
  LinePrefetch prefetch(mode, k / 2);
  int64_t i = 0;
  for (; i + 2 <= k; i += 2, panel += 2 * kPanelWidth) {
    prefetch.Next();
    DotPair<R>([&](int r) { return BroadcastPair(x[r], i); }, panel, acc);
  }
  if (i < k) {  // the panel holds zeros beyond k, x something else
    DotPair<R>([&](int r) { return reinterpret_cast<__m512bh>(_mm512_set1_epi32(x[r][i])); }, panel,
               acc);
  }
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < kTileVecs; ++v) {
      _mm512_storeu_ps(tile + r * kPanelWidth + 16 * v, acc[r][v]);
    }
  }
}

/// As VectorTile, for bf16 times bf16: 6 rows of 4 accumulators leave 8 registers for operands.
struct Bf16Tile {
  static constexpr int kMaxRows = 6;

  static void Compute(const uint16_t* const* x, const TileShape& shape, const uint16_t* panel,
                      float* tile, const TileMode& mode = {}) {
    const int64_t k = shape.k;
    switch (shape.rows) {
      case 1:
        return DotRows<1>(x, panel, k, mode, tile);
      case 2:
        return DotRows<2>(x, panel, k, mode, tile);
      case 3:
        return DotRows<3>(x, panel, k, mode, tile);
      case 4:
        return DotRows<4>(x, panel, k, mode, tile);
      case 5:
        return DotRows<5>(x, panel, k, mode, tile);
      case 6:
        return DotRows<6>(x, panel, k, mode, tile);
    }
  }
};

}  // namespace
}  // namespace moed::kernels::cpu
