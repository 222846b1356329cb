#pragma once

#include <cstdint>

#include "kernels/cpu/gemm_tile_inl.h"
#include "kernels/cpu/kernel_table.h"

/// One GemmTask, over the vectors of the simd_*.h included before.
namespace moed::kernels::cpu {
namespace {

inline void StoreRow(const float* y, const GemmTask& task, float* out) {
  for (int c = 0; c < task.num_cols; c += kLanes) {
    Vec v = Load(y + c);
    if (task.bias != nullptr) v = Add(v, Load(task.bias + c));
    StoreFirst(out + c, v, task.num_cols - c);
  }
}

inline void AccumulateRow(const float* y, const GemmTask& task, float* out) {
  const Vec scale = Set(task.scale);
  for (int c = 0; c < task.num_cols; c += kLanes) {
    Vec v = Load(y + c);
    if (task.bias != nullptr) v = Add(v, Load(task.bias + c));
    const int n = task.num_cols - c;
    StoreFirst(out + c, Fma(scale, v, LoadFirst(out + c, n)), n);
  }
}

template <typename X>
inline void RoundRow(const float* y, const GemmTask& task, X* out) {
  for (int c = 0; c < task.num_cols; c += kLanes) {
    StoreFirst(out + c, Load(y + c), task.num_cols - c);
  }
}

template <typename X>
inline void SwiGluRow(const float* y, const GemmTask& task, X* out) {
  for (int c = 0; c < task.num_cols; c += kLanes) {
    const Vec v = Mul(Silu(Load(y + c)), Load(y + kGateWidth + c));
    StoreFirst(out + c, v, task.num_cols - c);
  }
}

/// Writes row `row` of the task's output from y [64].
template <typename X>
inline void FinishRow(const float* y, const GemmTask& task, int64_t row) {
  const int64_t out_row = task.out_row == nullptr ? row : task.out_row[row];
  const int64_t offset = out_row * task.out_stride + task.out_col;
  switch (task.epilogue) {
    case Epilogue::kStore:
      return StoreRow(y, task, static_cast<float*>(task.out) + offset);
    case Epilogue::kAccumulate:
      return AccumulateRow(y, task, static_cast<float*>(task.out) + offset);
    case Epilogue::kRound:
      return RoundRow(y, task, static_cast<X*>(task.out) + offset);
    case Epilogue::kSwiGlu:
      return SwiGluRow(y, task, static_cast<X*>(task.out) + offset);
  }
}

/// The rows are cut into tiles of nearly equal height: 32 rows are 6+6+5+5+5+5, not 5 * 6 + 2.
template <typename Tile, typename X, typename W>
void RunGemm(const GemmTask& task) {
  alignas(64) float y[Tile::kMaxRows * kPanelWidth];
  const X* x = static_cast<const X*>(task.x);
  int64_t tiles = (task.row_end - task.row_begin + Tile::kMaxRows - 1) / Tile::kMaxRows;
  for (int64_t row = task.row_begin; row < task.row_end; --tiles) {
    const int rows = static_cast<int>((task.row_end - row + tiles - 1) / tiles);
    const X* x_rows[Tile::kMaxRows] = {};
    for (int r = 0; r < rows; ++r) {
      const int64_t x_row = task.x_row == nullptr ? row + r : task.x_row[row + r];
      x_rows[r] = x + x_row * task.k;
    }
    Tile::Compute(x_rows, rows, static_cast<const W*>(task.panel), task.k, y);
    for (int r = 0; r < rows; ++r) FinishRow<X>(y + r * kPanelWidth, task, row + r);
    row += rows;
  }
}

}  // namespace
}  // namespace moed::kernels::cpu
