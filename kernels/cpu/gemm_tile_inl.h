#pragma once

#include <cstdint>

#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/simd_math_inl.h"

/// The inner product at the heart of GEMM and attention, over the vectors of the simd_*.h included
/// before.
namespace moed::kernels::cpu {
namespace {

struct TileShape {
  int rows = 0;
  int64_t k = 0;
};

/// How a tile is computed.
struct TileMode {
  bool add = false;  // start from what is in the tile, not from zero
  // Weights to fetch into cache meanwhile; may be none.
  const char* ahead = nullptr;
  int64_t ahead_bytes = 0;
  bool stream = false;  // they are read once: past the outer caches
};

/// Fetches what a TileMode asks for, a few lines with every step along k. Every line: one that is
/// forgotten is waited for.
class LinePrefetch {
 public:
  LinePrefetch(const TileMode& mode, int64_t num_steps)
      : stream_(mode.stream),
        line_(mode.ahead),
        target_(mode.ahead),
        step_(num_steps > 0 ? (mode.ahead_bytes + num_steps - 1) / num_steps : 0) {}

  void Next() {
    target_ += step_;
    for (; line_ < target_; line_ += 64) {
      if (stream_) {
        __builtin_prefetch(line_, 0, 0);
      } else {
        __builtin_prefetch(line_, 0, 2);
      }
    }
  }

 private:
  const bool stream_;
  const char* line_;
  const char* target_;
  const int64_t step_;
};

template <int R>
inline void LoadTile(const float* tile, const TileMode& mode, Vec (*acc)[kBlockVecs]) {
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < kBlockVecs; ++v) {
      acc[r][v] = mode.add ? Load(tile + r * kPanelWidth + v * kLanes) : Zero();
    }
  }
}

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
inline void TileColumns(const X* const* x, const float* w, int64_t k, const TileMode& mode,
                        float* tile) {
  Vec acc[R][kBlockVecs];
  LoadTile<R>(tile, mode, acc);
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
inline void TileColumns(const X* const* x, const uint16_t* w, int64_t k, const TileMode& mode,
                        float* tile) {
  Vec acc[R][kBlockVecs];
  LoadTile<R>(tile, mode, acc);
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
inline void TileRows(const X* const* x, const W* panel, int64_t k, const TileMode& mode,
                     float* tile) {
  for (int c = 0; c < kPanelWidth; c += kBlockVecs * kLanes) {
    TileColumns<X, R>(x, panel + PanelOffset(panel, c), k, mode, tile + c);
  }
}

/// tile [rows, 64] = x times panel, x given as shape.rows <= kMaxRows pointers to rows of shape.k
/// elements.
struct VectorTile {
  static constexpr int kMaxRows = kBlockRows;

  template <typename X, typename W>
  static void Compute(const X* const* x, const TileShape& shape, const W* panel, float* tile,
                      const TileMode& mode = {}) {
    const int64_t k = shape.k;
    switch (shape.rows) {
      case 1:
        return TileRows<X, W, 1>(x, panel, k, mode, tile);
      case 2:
        return TileRows<X, W, 2>(x, panel, k, mode, tile);
      case 3:
        return TileRows<X, W, 3>(x, panel, k, mode, tile);
      case 4:
        return TileRows<X, W, 4>(x, panel, k, mode, tile);
      case 5:
        if constexpr (kMaxRows > 4) return TileRows<X, W, 5>(x, panel, k, mode, tile);
        break;
      case 6:
        if constexpr (kMaxRows > 4) return TileRows<X, W, 6>(x, panel, k, mode, tile);
        break;
    }
  }
};

}  // namespace
}  // namespace moed::kernels::cpu
