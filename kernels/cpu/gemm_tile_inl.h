#pragma once

#include <cstdint>

#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/simd_math_inl.h"

/// The inner product at the heart of GEMM and attention, over the vectors of the simd_*.h included
/// before.
namespace moed::kernels::cpu {
namespace {

/// acc[r][v] += x[r][k] * w[v] for R rows and kBlockVecs vectors.
template <typename X, int R>
inline void MultiplyAdd(const X* const* x, int64_t k, const Vec* w, Vec (*acc)[kBlockVecs]) {
  for (int r = 0; r < R; ++r) {
    const Vec a = Set(ToFloat(x[r][k]));
    for (int v = 0; v < kBlockVecs; ++v) acc[r][v] = Fma(a, w[v], acc[r][v]);
  }
}

/// The columns at `w` of R rows; each element is summed over k in ascending order.
template <typename X, int R>
inline void TileColumns(const X* const* x, const float* w, int64_t k, float* tile) {
  Vec acc[R][kBlockVecs] = {};
  for (int64_t i = 0; i < k; ++i, w += kPanelWidth) {
    Vec b[kBlockVecs];
    for (int v = 0; v < kBlockVecs; ++v) b[v] = Load(w + v * kLanes);
    MultiplyAdd<X, R>(x, i, b, acc);
  }
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < kBlockVecs; ++v) Store(tile + r * kPanelWidth + v * kLanes, acc[r][v]);
  }
}

template <typename X, int R>
inline void TileColumns(const X* const* x, const uint16_t* w, int64_t k, float* tile) {
  Vec acc[R][kBlockVecs] = {};
  for (int64_t i = 0; i < k; i += 2, w += 2 * kPanelWidth) {
    Vec b[kBlockVecs];
    for (int v = 0; v < kBlockVecs; ++v) b[v] = LoadEven(w + 2 * v * kLanes);
    MultiplyAdd<X, R>(x, i, b, acc);
    if (i + 1 == k) break;
    for (int v = 0; v < kBlockVecs; ++v) b[v] = LoadOdd(w + 2 * v * kLanes);
    MultiplyAdd<X, R>(x, i + 1, b, acc);
  }
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < kBlockVecs; ++v) Store(tile + r * kPanelWidth + v * kLanes, acc[r][v]);
  }
}

inline int64_t PanelOffset(const float*, int column) { return column; }
inline int64_t PanelOffset(const uint16_t*, int column) { return 2 * column; }

template <typename X, typename W, int R>
inline void TileRows(const X* const* x, const W* panel, int64_t k, float* tile) {
  for (int c = 0; c < kPanelWidth; c += kBlockVecs * kLanes) {
    TileColumns<X, R>(x, panel + PanelOffset(panel, c), k, tile + c);
  }
}

/// tile [rows, 64] = x times panel, x given as `rows` <= kBlockRows pointers to rows of k elements.
struct VectorTile {
  static constexpr int kMaxRows = kBlockRows;

  template <typename X, typename W>
  static void Compute(const X* const* x, int rows, const W* panel, int64_t k, float* tile) {
    switch (rows) {
      case 1:
        return TileRows<X, W, 1>(x, panel, k, tile);
      case 2:
        return TileRows<X, W, 2>(x, panel, k, tile);
      case 3:
        return TileRows<X, W, 3>(x, panel, k, tile);
      case 4:
        return TileRows<X, W, 4>(x, panel, k, tile);
      case 5:
        if constexpr (kMaxRows > 4) return TileRows<X, W, 5>(x, panel, k, tile);
        break;
      case 6:
        if constexpr (kMaxRows > 4) return TileRows<X, W, 6>(x, panel, k, tile);
        break;
    }
  }
};

}  // namespace
}  // namespace moed::kernels::cpu
