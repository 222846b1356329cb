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

// A panel that is read once per tile of rows is walked in blocks of so many k, which stay in cache.
constexpr int64_t kBlockK = 2048;

/// One tile of a task's rows over a part of k.
struct TilePart {
  int64_t row = 0;  // of the task's x and out
  int rows = 0;
  int64_t k_begin = 0;
  int64_t k_end = 0;
  float* y = nullptr;  // [rows, 64]
  TileMode mode;
};

// How far ahead a panel is fetched that is read once.
constexpr int64_t kStreamBytes = 4096;

/// Cuts a task into parts: compute(TilePart) for each, finish(y, row) for each row when its sum is
/// complete. Rows are cut into tiles of nearly equal height: 32 rows are 6+6+5+5+5+5, not
/// 5 * 6 + 2.
template <typename Compute, typename Finish>
void ForEachTile(const GemmTask& task, int max_rows, const Compute& compute, const Finish& finish) {
  alignas(64) float y[kMaxTaskRows * kPanelWidth];
  const int64_t rows = task.row_end - task.row_begin;
  const int64_t tiles = (rows + max_rows - 1) / max_rows;
  const int64_t blocks = tiles == 1 ? 1 : (task.k + kBlockK - 1) / kBlockK;
  // One tile alone reads the panel faster than it computes; with more there is time to fetch the
  // next panel.
  const bool stream = tiles == 1;
  const int64_t part_bytes = task.next_bytes / (tiles * blocks);
  TilePart part;
  part.mode = {.ahead = stream ? static_cast<const char*>(task.panel) + kStreamBytes : task.next,
               .ahead_bytes = part_bytes,
               .stream = stream};
  for (int64_t block = 0; block < blocks; ++block) {
    part.k_begin = block * kBlockK;
    part.k_end = block + 1 == blocks ? task.k : part.k_begin + kBlockK;
    part.mode.add = block > 0;
    int64_t row = 0;
    for (int64_t tile = 0; tile < tiles; ++tile, row += part.rows) {
      part.row = task.row_begin + row;
      part.rows = static_cast<int>((rows - row + tiles - tile - 1) / (tiles - tile));
      part.y = blocks == 1 ? y : y + row * kPanelWidth;
      compute(part);
      part.mode.ahead += part_bytes;
      if (block + 1 < blocks) continue;
      for (int r = 0; r < part.rows; ++r) finish(part.y + r * kPanelWidth, part.row + r);
    }
  }
}

template <typename Tile, typename X, typename W>
void RunGemm(const GemmTask& task) {
  const X* x = static_cast<const X*>(task.x);
  const auto compute = [&](const TilePart& part) {
    const X* x_rows[Tile::kMaxRows] = {};
    for (int r = 0; r < part.rows; ++r) {
      const int64_t row = part.row + r;
      x_rows[r] = x + (task.x_row == nullptr ? row : task.x_row[row]) * task.k + part.k_begin;
    }
    const W* panel = static_cast<const W*>(task.panel) + part.k_begin * kPanelWidth;
    Tile::Compute(x_rows, {part.rows, part.k_end - part.k_begin}, panel, part.y, part.mode);
  };
  ForEachTile(task, Tile::kMaxRows, compute,
              [&](const float* y, int64_t row) { FinishRow<X>(y, task, row); });
}

}  // namespace
}  // namespace moed::kernels::cpu
