#include <algorithm>

#include "kernels/cuda/gemm.h"
#include "kernels/cuda/gemm_tile.cuh"

/// Linear layers and grouped GEMM of experts: out^T = W x^T. Persistent blocks walk the tiles of a
/// work list that they make from the offsets in device memory, so that nobody on the host needs to
/// know how many rows an expert has.
namespace moed::kernels::cuda {
namespace {

// Up to 64 rows of a matrix: the weights are read once and bound the time, so that there are as
// many of their bytes on the way as shared memory holds. Narrow is for matrices with too few
// features to give every multiprocessor a block of 64.
constexpr int kFewRows = 64;
using NarrowShape = GemmShape<1, 1, 1, 2, 12>;  // 16 features x 16 rows
using SkinnyShape = GemmShape<4, 1, 1, 2, 6>;   // 64 x 16
using FewShape = GemmShape<4, 1, 1, 8, 6>;      // 64 x 64
// More rows: as many products of each number in shared memory as registers allow. Medium is for
// products with too few tiles of the large shape.
using MediumShape = GemmShape<2, 4, 4, 4, 3>;  // 128 x 128
using LargeShape = GemmShape<4, 2, 4, 8, 3>;   // 256 x 128

/// Dynamic shared memory: the stages, then the work list.
template <typename Shape>
size_t SharedBytes(int num_matrices) {
  return Shape::kStages * Shape::kStageBytes +
         2 * static_cast<size_t>(num_matrices + 1) * sizeof(int);
}

/// Blocks take tiles in turn; kStages - 1 stages are on their way while one is multiplied.
template <typename Shape>
__global__ void __launch_bounds__(Shape::kThreads) GemmKernel(GemmArguments a) {
  Bf16* stages = DynamicShared<Bf16>();
  const GemmWorkList work =
      ListWork<Shape>(a, reinterpret_cast<int*>(stages + Shape::kStages * Shape::kStageElements));
  StageLoader<Shape> loader(a, work, stages);
  for (int s = 0; s < Shape::kStages - 1; ++s) {
    loader.Next(s);
    CommitCopies();
  }
  const int steps = static_cast<int>(a.row_stride / kK);
  int stage = 0, free_stage = Shape::kStages - 1;
  for (int i = static_cast<int>(blockIdx.x); i < work.num_tiles; i += static_cast<int>(gridDim.x)) {
    const GemmTile tile = FindTile<Shape>(work, i);
    const int num_pairs = (tile.row_end - tile.row + 15) / 16;
    float acc[Shape::kMTiles][Shape::kNTiles][4] = {};
    for (int s = 0; s < steps; ++s) {
      WaitForCopies<Shape::kStages - 2>();
      __syncthreads();  // `stage` has arrived, and all are done with the one before
      loader.Next(free_stage);
      CommitCopies();
      MultiplyStage<Shape>(stages + stage * Shape::kStageElements, num_pairs, acc);
      free_stage = stage;
      stage = stage + 1 == Shape::kStages ? 0 : stage + 1;
    }
    StoreTile<Shape>(a, tile, acc);
  }
}

/// At most so many tiles: each matrix with rows has at most one more than its share.
template <typename Shape>
int64_t MostTiles(const GemmArguments& a) {
  const int64_t row_tiles = a.num_rows / Shape::kN + std::min<int64_t>(a.num_matrices, a.num_rows);
  return row_tiles * ((a.weight_rows + Shape::kM - 1) / Shape::kM);
}

template <typename Shape>
cudaError_t LaunchGemm(const Device& device, const GemmArguments& a) {
  const size_t shared = SharedBytes<Shape>(a.num_matrices);
  const int64_t per_multiprocessor =
      std::max<int64_t>(1, device.shared_bytes_per_multiprocessor /
                               (static_cast<int64_t>(shared) + kReservedSharedBytes));
  const int64_t resident = device.num_multiprocessors * per_multiprocessor;
  return Launch(GemmKernel<Shape>,
                {.grid = {static_cast<unsigned>(std::min(MostTiles<Shape>(a), resident))},
                 .block = {Shape::kThreads},
                 .shared_bytes = shared},
                device.stream, a);
}

/// The matrices with up to kFewRows rows.
cudaError_t LaunchFew(const Device& device, GemmArguments a, int64_t max_rows_per_matrix) {
  a.min_rows = 1;
  a.max_rows = kFewRows;
  if (max_rows_per_matrix > 16) return LaunchGemm<FewShape>(device, a);
  if (MostTiles<SkinnyShape>(a) < 2 * device.num_multiprocessors) {
    return LaunchGemm<NarrowShape>(device, a);
  }
  return LaunchGemm<SkinnyShape>(device, a);
}

/// The matrices with more.
cudaError_t LaunchMany(const Device& device, GemmArguments a) {
  a.min_rows = kFewRows + 1;
  a.max_rows = INT32_MAX;
  // Some GPUs have shared memory for the medium shape only.
  const int64_t large = static_cast<int64_t>(SharedBytes<LargeShape>(a.num_matrices));
  const bool fits = large + kReservedSharedBytes <= device.shared_bytes_per_multiprocessor;
  if (fits && MostTiles<LargeShape>(a) >= 2 * device.num_multiprocessors) {
    return LaunchGemm<LargeShape>(device, a);
  }
  return LaunchGemm<MediumShape>(device, a);
}

}  // namespace

cudaError_t Gemm(const Device& device, const GemmParams& p) {
  if (p.weights.encoding != Encoding::kBf16) return PackedGemm(device, p);
  if (p.num_rows == 0) return cudaSuccess;
  const GemmArguments a = {.x = reinterpret_cast<const Bf16*>(p.x),
                           .x_row = p.x_row,
                           .weights = reinterpret_cast<const Bf16*>(p.weights.data),
                           .num_matrices = static_cast<int>(p.weights.num_matrices),
                           .weight_rows = p.weights.rows,
                           .k = p.weights.cols,
                           .row_stride = p.weights.row_stride,
                           .offsets = p.offsets,
                           .num_rows = p.num_rows,
                           .epilogue = p.epilogue,
                           .out = p.out,
                           .out_row = p.out_row,
                           .num_features = p.num_features,
                           .bias = p.bias,
                           .scale = p.scale,
                           .x_is_aligned = p.weights.cols % kChunk == 0};
  const bool is_one = p.offsets == nullptr;
  const int64_t max_rows = is_one ? p.num_rows : std::min(p.num_rows, p.max_rows_per_matrix);
  if (!is_one || max_rows <= kFewRows) {
    const cudaError_t error = LaunchFew(device, a, max_rows);
    if (error != cudaSuccess || max_rows <= kFewRows) return error;
  }
  return LaunchMany(device, a);
}

}  // namespace moed::kernels::cuda
