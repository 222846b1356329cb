#include <algorithm>

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/ptx.cuh"

/// Linear layers and grouped GEMM of experts: out^T = W x^T with the weights as the 16-row operand
/// of mma.m16n8k16, whatever the number of rows. An output element is one accumulator of one warp,
/// summed over K in steps of 16 in ascending order; tile shapes differ in nothing that reaches its
/// bits. So a row's result does not depend on the other rows.
namespace moed::kernels::cuda {
namespace {

constexpr int kK = static_cast<int>(kKTile);
constexpr int kChunk = 8;                // elements of a 16-byte copy
constexpr int kRowChunks = kK / kChunk;  // of one row of a stage
constexpr int kRowElements = kK;

/// How a block and its warps cover a tile of features (M) times rows of x (N).
template <int kWarpsM_, int kWarpsN_, int kMTiles_, int kNTiles_, int kStages_>
struct TileShape {
  static constexpr int kWarpsM = kWarpsM_, kWarpsN = kWarpsN_;
  static constexpr int kMTiles = kMTiles_;  // of 16 features, per warp
  static constexpr int kNTiles = kNTiles_;  // of 8 rows, per warp; even
  static constexpr int kStages = kStages_;
  static constexpr int kM = kWarpsM * kMTiles * 16;
  static constexpr int kN = kWarpsN * kNTiles * 8;
  static constexpr int kThreads = kWarpsM * kWarpsN * kWarpSize;
  static constexpr int kStageElements = (kM + kN) * kRowElements;
  static constexpr int kStageBytes = kStageElements * int{sizeof(Bf16)};
};

// Few rows: as many bytes on their way as an SM can hold. Narrow is for matrices with too few
// features to give every SM a block of 64.
using NarrowTile = TileShape<1, 1, 1, 2, 8>;  // 16 x 16
using SkinnyTile = TileShape<4, 1, 1, 2, 6>;  // 64 x 16
using MediumTile = TileShape<4, 1, 1, 8, 4>;  // 64 x 64
using WideTile = TileShape<2, 4, 4, 4, 3>;    // 128 x 128

struct GemmArguments {
  const Bf16* x;
  const int32_t* x_row;
  const Bf16* weights;
  int64_t num_matrices, weight_rows, k, row_stride;
  const int32_t* offsets;
  int64_t num_rows;
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
  return rows + row * kRowElements + ((chunk ^ (row & 7)) * kChunk);
}

/// One tile of the work: which matrix, features from `feature`, rows of x [row, row_end).
struct Tile {
  int matrix;
  int64_t feature;
  int64_t row, row_end;
};

__device__ __forceinline__ int64_t RowsBegin(const GemmArguments& a, int matrix) {
  return a.offsets == nullptr ? matrix * a.num_rows : a.offsets[matrix];
}

/// The work list: tile_begin[m] = the first tile of matrix m, for m up to and with num_matrices. A
/// matrix without rows has no tile.
template <typename Shape>
__device__ void CountTiles(const GemmArguments& a, int* tile_begin) {
  const int num_matrices = static_cast<int>(a.num_matrices);
  const int feature_tiles = static_cast<int>((a.weight_rows + Shape::kM - 1) / Shape::kM);
  const int lane = static_cast<int>(threadIdx.x);
  if (lane < kWarpSize) {
    int before = 0;
    for (int first = 0; first < num_matrices; first += kWarpSize) {
      const int m = first + lane;
      int tiles = 0;
      if (m < num_matrices) {
        const int64_t rows = RowsBegin(a, m + 1) - RowsBegin(a, m);
        tiles = static_cast<int>((rows + Shape::kN - 1) / Shape::kN) * feature_tiles;
      }
      int sum = tiles;
      for (int offset = 1; offset < kWarpSize; offset *= 2) {
        const int other = __shfl_up_sync(kAllLanes, sum, offset);
        if (lane >= offset) sum += other;
      }
      if (m < num_matrices) tile_begin[m] = before + sum - tiles;
      before += __shfl_sync(kAllLanes, sum, kWarpSize - 1);
    }
    if (lane == 0) tile_begin[num_matrices] = before;
  }
  __syncthreads();
}

/// Tiles of the same weights are neighbours, so that blocks that run together share them in L2.
template <typename Shape>
__device__ Tile FindTile(const GemmArguments& a, const int* tile_begin, int index) {
  int low = 0, high = static_cast<int>(a.num_matrices);  // tile_begin[low] <= index < [high]
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (tile_begin[middle] <= index ? low : high) = middle;
  }
  const int64_t begin = RowsBegin(a, low), end = RowsBegin(a, low + 1);
  const int row_tiles = static_cast<int>((end - begin + Shape::kN - 1) / Shape::kN);
  const int local = index - tile_begin[low];
  const int64_t row = begin + local % row_tiles * int64_t{Shape::kN};
  return {low, local / row_tiles * int64_t{Shape::kM}, row, end};
}

/// Starts the copies of one step along K: features, then rows of x.
template <typename Shape>
__device__ void LoadStage(const GemmArguments& a, const Tile& tile, const Bf16* const* x_rows,
                          int64_t k, Bf16* stage) {
  const Bf16* weights = a.weights + (tile.matrix * a.weight_rows + tile.feature) * a.row_stride + k;
  const int64_t features = a.weight_rows - tile.feature;
  for (int i = static_cast<int>(threadIdx.x); i < Shape::kM * kRowChunks; i += Shape::kThreads) {
    const int row = i / kRowChunks, chunk = i % kRowChunks;
    const bool exists = row < features;
    const Bf16* from = exists ? weights + row * a.row_stride + chunk * kChunk : a.weights;
    CopyAsync16(ChunkAt(stage, row, chunk), from, exists ? 16 : 0);
  }
  Bf16* x_stage = stage + Shape::kM * kRowElements;
  for (int i = static_cast<int>(threadIdx.x); i < Shape::kN * kRowChunks; i += Shape::kThreads) {
    const int row = i / kRowChunks, chunk = i % kRowChunks;
    const Bf16* from = x_rows[row];
    const int64_t at = k + chunk * kChunk;
    const int64_t rest = from == nullptr ? 0 : a.k - at;
    const int count = static_cast<int>(rest < 0 ? 0 : (rest > kChunk ? kChunk : rest));
    Bf16* to = ChunkAt(x_stage, row, chunk);
    if (a.x_is_aligned) {
      CopyAsync16(to, count > 0 ? from + at : a.x, 2 * count);
    } else {
      for (int j = 0; j < kChunk; ++j) to[j] = j < count ? from[at + j] : Bf16{0};
    }
  }
}

/// acc += the products of one stage.
template <typename Shape>
__device__ __forceinline__ void MultiplyStage(Bf16* stage,
                                              float (&acc)[Shape::kMTiles][Shape::kNTiles][4]) {
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int first_feature = warp % Shape::kWarpsM * Shape::kMTiles * 16;
  const int first_row = warp / Shape::kWarpsM * Shape::kNTiles * 8;
  Bf16* x_stage = stage + Shape::kM * kRowElements;
#pragma unroll
  for (int k = 0; k < kK; k += 16) {
    uint32_t w[Shape::kMTiles][4], x[Shape::kNTiles / 2][4];
#pragma unroll
    for (int m = 0; m < Shape::kMTiles; ++m) {
      LoadMatrix4(w[m], ChunkAt(stage, first_feature + m * 16 + lane % 16, k / 8 + lane / 16));
    }
#pragma unroll
    for (int n = 0; n < Shape::kNTiles / 2; ++n) {
      const int row = first_row + n * 16 + lane / 16 * 8 + lane % 8;
      LoadMatrix4(x[n], ChunkAt(x_stage, row, k / 8 + lane / 8 % 2));
    }
#pragma unroll
    for (int m = 0; m < Shape::kMTiles; ++m) {
#pragma unroll
      for (int n = 0; n < Shape::kNTiles; ++n) {
        MmaBf16(acc[m][n], w[m], x[n / 2][n % 2 * 2], x[n / 2][n % 2 * 2 + 1]);
      }
    }
  }
}

/// Two accumulators of one row of x: features f and f + 8 of the weights.
template <GemmEpilogue kEpilogue>
__device__ __forceinline__ void StorePair(const GemmArguments& a, int64_t row, int64_t feature,
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
__device__ __forceinline__ void StoreTile(const GemmArguments& a, const Tile& tile,
                                          const float (&acc)[Shape::kMTiles][Shape::kNTiles][4]) {
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int64_t feature = tile.feature + warp % Shape::kWarpsM * Shape::kMTiles * 16 + lane / 4;
  const int64_t row = tile.row + warp / Shape::kWarpsM * Shape::kNTiles * 8 + lane % 4 * 2;
#pragma unroll
  for (int m = 0; m < Shape::kMTiles; ++m) {
#pragma unroll
    for (int n = 0; n < Shape::kNTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int64_t r = row + n * 8 + i;
        if (r >= tile.row_end) continue;
        StorePair<kEpilogue>(a, r, feature + m * 16, acc[m][n][i], acc[m][n][i + 2]);
      }
    }
  }
}

/// Dynamic shared memory: the stages, pointers to the tile's rows of x, the work list.
template <typename Shape>
size_t SharedBytes(int64_t num_matrices) {
  return Shape::kStages * Shape::kStageBytes + Shape::kN * sizeof(Bf16*) +
         static_cast<size_t>(num_matrices + 1) * sizeof(int);
}

/// One tile: a pipeline of kStages - 1 stages on their way while one is multiplied.
template <typename Shape, GemmEpilogue kEpilogue>
__device__ void ComputeTile(const GemmArguments& a, const Tile& tile, Bf16* stages,
                            const Bf16** x_rows) {
  for (int i = static_cast<int>(threadIdx.x); i < Shape::kN; i += Shape::kThreads) {
    const int64_t row = tile.row + i;
    const Bf16* from = nullptr;
    if (row < tile.row_end) from = a.x + (a.x_row == nullptr ? row : a.x_row[row]) * a.k;
    x_rows[i] = from;
  }
  __syncthreads();
  const int steps = static_cast<int>(a.row_stride / kK);
  for (int s = 0; s < Shape::kStages - 1; ++s) {
    if (s < steps) {
      LoadStage<Shape>(a, tile, x_rows, int64_t{s} * kK, stages + s * Shape::kStageElements);
    }
    CommitCopies();
  }
  float acc[Shape::kMTiles][Shape::kNTiles][4] = {};
  for (int s = 0; s < steps; ++s) {
    WaitForCopies<Shape::kStages - 2>();
    __syncthreads();  // stage s has arrived, and all are done with the one before
    const int next = s + Shape::kStages - 1;
    if (next < steps) {
      LoadStage<Shape>(a, tile, x_rows, int64_t{next} * kK,
                       stages + next % Shape::kStages * Shape::kStageElements);
    }
    CommitCopies();
    MultiplyStage<Shape>(stages + s % Shape::kStages * Shape::kStageElements, acc);
  }
  __syncthreads();  // the next tile may overwrite stages and x_rows
  StoreTile<Shape, kEpilogue>(a, tile, acc);
}

/// Blocks take tiles in turn until the work list is done.
template <typename Shape, GemmEpilogue kEpilogue>
__global__ void __launch_bounds__(Shape::kThreads) GemmKernel(GemmArguments a) {
  Bf16* stages = DynamicShared<Bf16>();
  const Bf16** x_rows =
      reinterpret_cast<const Bf16**>(stages + Shape::kStages * Shape::kStageElements);
  int* tile_begin = reinterpret_cast<int*>(x_rows + Shape::kN);
  CountTiles<Shape>(a, tile_begin);
  const int num_tiles = tile_begin[a.num_matrices];
  for (int i = static_cast<int>(blockIdx.x); i < num_tiles; i += static_cast<int>(gridDim.x)) {
    ComputeTile<Shape, kEpilogue>(a, FindTile<Shape>(a, tile_begin, i), stages, x_rows);
  }
}

template <typename Shape, GemmEpilogue kEpilogue>
cudaError_t LaunchGemm(const Device& device, const GemmArguments& a) {
  const size_t shared = SharedBytes<Shape>(a.num_matrices);
  // Each matrix with rows has at most one tile more than its share.
  const int64_t row_tiles = a.num_rows / Shape::kN + std::min<int64_t>(a.num_matrices, a.num_rows);
  const int64_t tiles = row_tiles * ((a.weight_rows + Shape::kM - 1) / Shape::kM);
  const int64_t resident =
      int64_t{device.num_multiprocessors} *
      std::max<int64_t>(1, (int64_t{160} << 10) / static_cast<int64_t>(shared));
  return Launch(GemmKernel<Shape, kEpilogue>,
                {.grid = {static_cast<unsigned>(std::min(tiles, resident))},
                 .block = {Shape::kThreads},
                 .shared_bytes = shared},
                device.stream, a);
}

/// Chooses the tile. By the arithmetic of a row they are all the same.
template <GemmEpilogue kEpilogue>
cudaError_t ChooseTile(const Device& device, const GemmArguments& a, int64_t rows_per_matrix) {
  if (rows_per_matrix > 64) return LaunchGemm<WideTile, kEpilogue>(device, a);
  if (rows_per_matrix > 16) return LaunchGemm<MediumTile, kEpilogue>(device, a);
  const int64_t blocks = (a.weight_rows + SkinnyTile::kM - 1) / SkinnyTile::kM *
                         std::min<int64_t>(a.num_matrices, a.num_rows);
  if (blocks < 2 * device.num_multiprocessors) return LaunchGemm<NarrowTile, kEpilogue>(device, a);
  return LaunchGemm<SkinnyTile, kEpilogue>(device, a);
}

}  // namespace

cudaError_t Gemm(const Device& device, const GemmParams& p) {
  if (p.num_rows == 0) return cudaSuccess;
  const GemmArguments a = {.x = reinterpret_cast<const Bf16*>(p.x),
                           .x_row = p.x_row,
                           .weights = reinterpret_cast<const Bf16*>(p.weights.data),
                           .num_matrices = p.weights.num_matrices,
                           .weight_rows = p.weights.rows,
                           .k = p.weights.cols,
                           .row_stride = p.weights.row_stride,
                           .offsets = p.offsets,
                           .num_rows = p.num_rows,
                           .out = p.out,
                           .out_row = p.out_row,
                           .num_features = p.num_features,
                           .bias = p.bias,
                           .scale = p.scale,
                           .x_is_aligned = p.weights.cols % kChunk == 0};
  switch (p.epilogue) {
    case GemmEpilogue::kStore:
      return ChooseTile<GemmEpilogue::kStore>(device, a, p.rows_per_matrix);
    case GemmEpilogue::kAccumulate:
      return ChooseTile<GemmEpilogue::kAccumulate>(device, a, p.rows_per_matrix);
    case GemmEpilogue::kSwiGlu:
      return ChooseTile<GemmEpilogue::kSwiGlu>(device, a, p.rows_per_matrix);
    case GemmEpilogue::kRound:
      return ChooseTile<GemmEpilogue::kRound>(device, a, p.rows_per_matrix);
  }
  return cudaErrorInvalidValue;
}

}  // namespace moed::kernels::cuda
