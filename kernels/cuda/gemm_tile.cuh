#pragma once

#include <cstdint>

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/ptx.cuh"

/// What a block of the GEMM does with one tile of the output: features (rows of the weights, the
/// 16-row operand of mma.m16n8k16) times rows of x. An output element is one accumulator of one
/// warp, summed over K in steps of 16 in ascending order; shapes differ in nothing that reaches its
/// bits. So a row's result does not depend on the other rows.
namespace moed::kernels::cuda {

constexpr int kK = static_cast<int>(kKTile);
constexpr int kChunk = 8;                // elements of a 16-byte copy
constexpr int kRowChunks = kK / kChunk;  // of one row of a stage

/// How a block and its warps cover a tile of kM features times kN rows of x, and how many steps
/// along K are in shared memory.
template <int kWarpsM_, int kWarpsN_, int kMTiles_, int kNTiles_, int kStages_>
struct GemmShape {
  static constexpr int kWarpsM = kWarpsM_, kWarpsN = kWarpsN_;
  static constexpr int kMTiles = kMTiles_;     // of 16 features, per warp
  static constexpr int kPairs = kNTiles_ / 2;  // of 16 rows, per warp
  static constexpr int kNTiles = kNTiles_;     // of 8 rows, per warp; even
  static constexpr int kStages = kStages_;
  static constexpr int kM = kWarpsM * kMTiles * 16;
  static constexpr int kN = kWarpsN * kNTiles * 8;
  static constexpr int kThreads = kWarpsM * kWarpsN * kWarpSize;
  static constexpr int kStageElements = (kM + kN) * kK;
  static constexpr int kStageBytes = kStageElements * int{sizeof(Bf16)};
  static constexpr int kRowsAtOnce = kThreads / kRowChunks;  // that the threads copy with one each
  static_assert(kNTiles % 2 == 0 && kM % kRowsAtOnce == 0 && kN % kRowsAtOnce == 0);
};

struct GemmArguments {
  const Bf16* x;
  const int32_t* x_row;
  const Bf16* weights;
  int num_matrices;
  int64_t weight_rows, k, row_stride;
  const int32_t* offsets;
  int64_t num_rows;
  int min_rows, max_rows;  // matrices with other numbers of rows are left to another launch
  GemmEpilogue epilogue;
  void* out;
  const int32_t* out_row;
  int64_t num_features;
  const float* bias;
  float scale;
  bool x_is_aligned;  // rows of x start at multiples of 16 bytes
};

/// A stage's chunk `c` of row `row`, placed so that the 8 rows that ldmatrix reads at once lie in
/// different banks.
__device__ __forceinline__ Bf16* ChunkAt(Bf16* rows, int row, int chunk) {
  return rows + row * kK + ((chunk ^ (row & 7)) * kChunk);
}

/// Features from `feature` of a matrix, rows of x [row, row_end).
struct GemmTile {
  int matrix;
  int64_t feature;
  int row, row_end;
};

/// All tiles of a launch, in shared memory: those of matrix m are [tile_begin[m], tile_begin[m+1]).
struct GemmWorkList {
  int* tile_begin;  // [num_matrices + 1]
  int* row_begin;   // [num_matrices + 1]
  int num_matrices;
  int num_tiles;
};

/// Every block makes its own list from the offsets: some hundred numbers that are in L2. A matrix
/// whose number of rows is not this launch's has no tile. All threads must call.
template <typename Shape>
__device__ GemmWorkList ListWork(const GemmArguments& a, int* memory) {
  const int thread = static_cast<int>(threadIdx.x), n = a.num_matrices;
  GemmWorkList work = {memory, memory + n + 1, n, 0};
  for (int m = thread; m <= n; m += Shape::kThreads) {
    work.row_begin[m] =
        a.offsets == nullptr ? m * static_cast<int>(a.num_rows) : static_cast<int>(a.offsets[m]);
  }
  __syncthreads();
  const int feature_tiles = static_cast<int>((a.weight_rows + Shape::kM - 1) / Shape::kM);
  int before = 0;
  for (int first = 0; thread < kWarpSize && first < n; first += kWarpSize) {
    const int m = first + thread;
    const int rows = m < n ? work.row_begin[m + 1] - work.row_begin[m] : 0;
    const bool is_ours = rows >= a.min_rows && rows <= a.max_rows;
    const int tiles = is_ours ? (rows + Shape::kN - 1) / Shape::kN * feature_tiles : 0;
    int sum = tiles;
    for (int offset = 1; offset < kWarpSize; offset *= 2) {
      const int other = __shfl_up_sync(kAllLanes, sum, offset);
      if (thread >= offset) sum += other;
    }
    if (m < n) work.tile_begin[m] = before + sum - tiles;
    before += __shfl_sync(kAllLanes, sum, kWarpSize - 1);
  }
  if (thread == 0) work.tile_begin[n] = before;
  __syncthreads();
  work.num_tiles = work.tile_begin[n];
  return work;
}

/// Tiles of the same weights are neighbours, so that blocks that run together share them in L2.
template <typename Shape>
__device__ GemmTile FindTile(const GemmWorkList& work, int index) {
  int low = 0, high = work.num_matrices;  // tile_begin[low] <= index < tile_begin[high]
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (work.tile_begin[middle] <= index ? low : high) = middle;
  }
  const int begin = work.row_begin[low], end = work.row_begin[low + 1];
  const int row_tiles = (end - begin + Shape::kN - 1) / Shape::kN;
  const int local = index - work.tile_begin[low];
  return {low, local / row_tiles * int64_t{Shape::kM}, begin + local % row_tiles * Shape::kN, end};
}

/// Starts the copies of a tile's rows of x, one step along K a call. What a thread copies stays the
/// same along K; it keeps its sources in registers.
template <typename Shape>
class RowLoader {
 public:
  __device__ void BeginTile(const GemmArguments& a, const GemmTile& tile) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int at = tile.row + row() + i * Shape::kRowsAtOnce;
      x_[i] = nullptr;
      if (at < tile.row_end) x_[i] = a.x + (a.x_row == nullptr ? at : a.x_row[at]) * a.k;
    }
    copied_rows_ = (tile.row_end - tile.row + 15) / 16 * 16;
  }

  /// The elements from k on, to a stage's [kN, kK].
  __device__ void Copy(const GemmArguments& a, int64_t k, Bf16* to) const {
    const int64_t at = k + chunk() * kChunk;
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int to_row = row() + i * Shape::kRowsAtOnce;
      if (to_row >= copied_rows_) break;  // nobody multiplies it
      const int64_t rest = x_[i] == nullptr ? 0 : a.k - at;
      const int count = static_cast<int>(rest < 0 ? 0 : (rest > kChunk ? kChunk : rest));
      Bf16* chunk_to = ChunkAt(to, to_row, chunk());
      if (a.x_is_aligned) {
        CopyAsync16(chunk_to, count > 0 ? x_[i] + at : a.x, 2 * count);
      } else {
        for (int j = 0; j < kChunk; ++j) chunk_to[j] = j < count ? x_[i][at + j] : Bf16{0};
      }
    }
  }

 private:
  static constexpr int kRows = Shape::kN / Shape::kRowsAtOnce;  // of a thread

  __device__ int row() const { return static_cast<int>(threadIdx.x) / kRowChunks; }
  __device__ int chunk() const { return static_cast<int>(threadIdx.x) % kRowChunks; }

  const Bf16* x_[kRows];  // null: no such row
  int copied_rows_ = 0;   // the tile's, and zeros up to a multiple of 16
};

/// Starts the copies of a block's steps, one step a call: along K of a tile, then of the block's
/// next tile. It runs ahead of the multiplication also from tile to tile, so that copies are always
/// on their way. What a thread copies stays the same along K; it keeps its sources in registers.
template <typename Shape>
class StageLoader {
 public:
  __device__ StageLoader(const GemmArguments& a, const GemmWorkList& work, Bf16* stages)
      : a_(a), work_(work), stages_(stages), tile_(static_cast<int>(blockIdx.x)) {}

  /// Into stage `stage`; nothing when all tiles are done.
  __device__ void Next(int stage) {
    if (tile_ >= work_.num_tiles) return;
    if (k_ == 0) BeginTile(FindTile<Shape>(work_, tile_));
    Bf16* to = stages_ + stage * Shape::kStageElements;
    CopyWeights(to);
    rows_.Copy(a_, k_, to + Shape::kM * kK);
    k_ += kK;
    if (k_ < a_.row_stride) return;
    k_ = 0;
    tile_ += static_cast<int>(gridDim.x);
  }

 private:
  __device__ int row() const { return static_cast<int>(threadIdx.x) / kRowChunks; }
  __device__ int chunk() const { return static_cast<int>(threadIdx.x) % kRowChunks; }

  __device__ void BeginTile(const GemmTile& tile) {
    const int64_t feature = tile.feature + row();
    weights_ = a_.weights + (tile.matrix * a_.weight_rows + feature) * a_.row_stride;
    features_ = a_.weight_rows - feature;
    rows_.BeginTile(a_, tile);
  }

  __device__ void CopyWeights(Bf16* to) const {
    const Bf16* from = weights_ + k_ + chunk() * kChunk;
#pragma unroll
    for (int i = 0; i < Shape::kM / Shape::kRowsAtOnce; ++i) {
      const int offset = i * Shape::kRowsAtOnce;
      const bool exists = offset < features_;
      CopyAsync16(ChunkAt(to, row() + offset, chunk()),
                  exists ? from + offset * a_.row_stride : a_.weights, exists ? 16 : 0);
    }
  }

  const GemmArguments& a_;
  const GemmWorkList& work_;
  Bf16* const stages_;
  int tile_;       // that is being loaded
  int64_t k_ = 0;  // of the next step
  const Bf16* weights_ = nullptr;
  int64_t features_ = 0;  // of the matrix, from the thread's first on
  RowLoader<Shape> rows_;
};

/// acc += the products of one stage. Of the warp's pairs of 8 rows only the first `num_pairs` have
/// rows at all; a shape with several warps along N does them all.
template <typename Shape>
__device__ __forceinline__ void MultiplyStage(Bf16* stage, int num_pairs,
                                              float (&acc)[Shape::kMTiles][Shape::kNTiles][4]) {
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int first_feature = warp % Shape::kWarpsM * Shape::kMTiles * 16;
  const int first_row = warp / Shape::kWarpsM * Shape::kNTiles * 8;
  Bf16* x_stage = stage + Shape::kM * kK;
#pragma unroll
  for (int k = 0; k < kK; k += 16) {
    uint32_t w[Shape::kMTiles][4];
#pragma unroll
    for (int m = 0; m < Shape::kMTiles; ++m) {
      LoadMatrix4(w[m], ChunkAt(stage, first_feature + m * 16 + lane % 16, k / 8 + lane / 16));
    }
#pragma unroll
    for (int n = 0; n < Shape::kPairs; ++n) {
      if (Shape::kWarpsN == 1 && n > 0 && n >= num_pairs) break;
      uint32_t x[4];
      const int row = first_row + n * 16 + lane / 16 * 8 + lane % 8;
      LoadMatrix4(x, ChunkAt(x_stage, row, k / 8 + lane / 8 % 2));
#pragma unroll
      for (int m = 0; m < Shape::kMTiles; ++m) {
        MmaBf16(acc[m][2 * n], w[m], x[0], x[1]);
        MmaBf16(acc[m][2 * n + 1], w[m], x[2], x[3]);
      }
    }
  }
}

/// Two accumulators of one row of x: features f and f + 8 of the weights.
template <GemmEpilogue kEpilogue>
__device__ __forceinline__ void StorePair(const GemmArguments& a, int row, int64_t feature,
                                          float first, float second) {
  if constexpr (kEpilogue == GemmEpilogue::kSwiGlu) {
    const int64_t f = feature / 16 * 8 + feature % 8;
    if (f < a.num_features) {
      static_cast<Bf16*>(a.out)[row * a.num_features + f] = ToBf16(Silu(first) * second);
    }
    return;
  }
  const int64_t out_row = a.out_row == nullptr ? row : a.out_row[row];
  for (int half = 0; half < 2; ++half) {
    const int64_t f = feature + 8 * half;
    if (f >= a.num_features) continue;
    float y = half == 0 ? first : second;
    if constexpr (kEpilogue == GemmEpilogue::kRound) {
      static_cast<Bf16*>(a.out)[out_row * a.num_features + f] = ToBf16(y);
    } else {
      float& out = static_cast<float*>(a.out)[row * a.num_features + f];
      if (a.bias != nullptr) y += a.bias[f];
      out = kEpilogue == GemmEpilogue::kAccumulate ? fmaf(a.scale, y, out) : y;
    }
  }
}

template <typename Shape, GemmEpilogue kEpilogue>
__device__ __forceinline__ void StoreTileAs(const GemmArguments& a, const GemmTile& tile,
                                            const float (&acc)[Shape::kMTiles][Shape::kNTiles][4]) {
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int64_t feature = tile.feature + warp % Shape::kWarpsM * Shape::kMTiles * 16 + lane / 4;
  const int row = tile.row + warp / Shape::kWarpsM * Shape::kNTiles * 8 + lane % 4 * 2;
#pragma unroll
  for (int n = 0; n < Shape::kNTiles; ++n) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int r = row + n * 8 + i;
      if (r >= tile.row_end) continue;
#pragma unroll
      for (int m = 0; m < Shape::kMTiles; ++m) {
        StorePair<kEpilogue>(a, r, feature + m * 16, acc[m][n][i], acc[m][n][i + 2]);
      }
    }
  }
}

template <typename Shape>
__device__ void StoreTile(const GemmArguments& a, const GemmTile& tile,
                          const float (&acc)[Shape::kMTiles][Shape::kNTiles][4]) {
  switch (a.epilogue) {
    case GemmEpilogue::kStore:
      return StoreTileAs<Shape, GemmEpilogue::kStore>(a, tile, acc);
    case GemmEpilogue::kAccumulate:
      return StoreTileAs<Shape, GemmEpilogue::kAccumulate>(a, tile, acc);
    case GemmEpilogue::kSwiGlu:
      return StoreTileAs<Shape, GemmEpilogue::kSwiGlu>(a, tile, acc);
    case GemmEpilogue::kRound:
      return StoreTileAs<Shape, GemmEpilogue::kRound>(a, tile, acc);
  }
}

}  // namespace moed::kernels::cuda
