#include <algorithm>

#include "kernels/cuda/dequantize.cuh"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/gemm_tile.cuh"

/// gemm.cu for weights that are packed: integers or fp8, and bf16 activations. Shared memory holds
/// the packed bytes; they become operands in registers. The products of a group of 32 are summed by
/// mma and then multiplied with the group's scale, groups in ascending order: as there, an output
/// element is one accumulator and the same arithmetic in every shape.
namespace moed::kernels::cuda {
namespace {

constexpr int kFewRows = 64;
using SkinnyShape = GemmShape<4, 1, 1, 2, 8>;  // 64 features x 16 rows
using FewShape = GemmShape<4, 1, 1, 8, 6>;     // 64 x 64
using ManyShape = GemmShape<2, 4, 4, 4, 3>;    // 128 x 128

struct PackedArguments {
  GemmArguments gemm;  // without weights
  const char* weights;
  const char* scales;
  int64_t groups;  // of a row
  int64_t padded_rows;
};

/// A stage: [2 groups, kM, group bytes] weights, their scales, [kN, 64] of x.
template <typename Codec, typename Shape>
struct PackedStage {
  static constexpr int kGroupBytes = GroupBytes(Codec::kEncoding);
  static constexpr int kWeightBytes = kGroupsPerStep * Shape::kM * kGroupBytes;
  static constexpr int kScaleRuns =
      GroupsPerScale(Codec::kEncoding) < kGroupsPerStep ? kGroupsPerStep : 1;
  static constexpr int kScaleRunBytes = Shape::kM * ScaleBytes(Codec::kEncoding);
  static constexpr int kXAt = kWeightBytes + kScaleRuns * kScaleRunBytes;
  static constexpr int kBytes = kXAt + Shape::kN * kK * int{sizeof(Bf16)};
  static_assert(kScaleRunBytes % 16 == 0 && kXAt % 128 == 0);
};

/// As StageLoader: starts the copies of a block's steps, one step a call, along K of a tile and on
/// to the block's next tile.
template <typename Codec, typename Shape>
class PackedLoader {
 public:
  using Stage = PackedStage<Codec, Shape>;

  __device__ PackedLoader(const PackedArguments& a, const GemmWorkList& work, char* stages)
      : a_(a), work_(work), stages_(stages), next_tile_(static_cast<int>(blockIdx.x)) {}

  __device__ void Next(int stage) {
    if (next_tile_ >= work_.num_tiles) return;
    if (step_ == 0) BeginTile();
    char* to = stages_ + stage * Stage::kBytes;
    CopyWeights(to);
    CopyScales(to + Stage::kWeightBytes);
    rows_.Copy(a_.gemm, step_ * kKTile, reinterpret_cast<Bf16*>(to + Stage::kXAt));
    if (++step_ * kGroupsPerStep < a_.groups) return;
    step_ = 0;
    next_tile_ += static_cast<int>(gridDim.x);
  }

 private:
  __device__ void BeginTile() {
    tile_ = FindTile<Shape>(work_, next_tile_);
    rows_.BeginTile(a_.gemm, tile_);
  }

  /// kM rows of each of kRuns runs, as far as they are there.
  template <int kRuns, int kRowBytes>
  __device__ void CopyRuns(const char* from, int64_t stride, char* to) const {
    constexpr int kRunChunks = Shape::kM * kRowBytes / 16;
    const int64_t bytes = (a_.padded_rows - tile_.feature) * kRowBytes;
#pragma unroll
    for (int first = 0; first < kRuns * kRunChunks; first += Shape::kThreads) {
      const int i = first + static_cast<int>(threadIdx.x);
      if (kRuns * kRunChunks % Shape::kThreads != 0 && i >= kRuns * kRunChunks) break;
      const int run = i / kRunChunks, at = i % kRunChunks * 16;
      const bool exists = at < bytes;
      CopyAsync16(to + i * 16, exists ? from + run * stride + at : a_.weights, exists ? 16 : 0);
    }
  }

  __device__ void CopyWeights(char* to) const {
    const int64_t group = tile_.matrix * a_.groups + step_ * kGroupsPerStep;
    const int64_t stride = a_.padded_rows * Stage::kGroupBytes;
    CopyRuns<kGroupsPerStep, Stage::kGroupBytes>(
        a_.weights + group * stride + tile_.feature * Stage::kGroupBytes, stride, to);
  }

  __device__ void CopyScales(char* to) const {
    constexpr int kScale = ScaleBytes(Codec::kEncoding), kPer = GroupsPerScale(Codec::kEncoding);
    const int64_t run = (tile_.matrix * a_.groups + step_ * kGroupsPerStep) / kPer;
    const int64_t stride = a_.padded_rows * kScale;
    CopyRuns<Stage::kScaleRuns, kScale>(a_.scales + run * stride + tile_.feature * kScale, stride,
                                        to);
  }

  const PackedArguments& a_;
  const GemmWorkList& work_;
  char* const stages_;
  int next_tile_;     // that is being loaded
  int64_t step_ = 0;  // of it
  GemmTile tile_ = {};
  RowLoader<Shape> rows_;
};

/// The operands of one group of a warp's features, and their scales.
template <typename Codec, typename Shape>
struct PackedOperands {
  uint32_t a[Shape::kMTiles][2][4];
  float scale[Shape::kMTiles][2];  // of features lane / 4 and lane / 4 + 8

  __device__ __forceinline__ PackedOperands(const char* stage, int group) {
    using Stage = PackedStage<Codec, Shape>;
    using Words = typename Codec::Words;
    const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
    const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
    const int first = warp % Shape::kWarpsM * Shape::kMTiles * 16 + lane / 4;
    const char* weights =
        stage + group * Shape::kM * Stage::kGroupBytes + lane % 4 * (Stage::kGroupBytes / 4);
    const auto* scales = reinterpret_cast<const typename Codec::Scale*>(
        stage + Stage::kWeightBytes + (Stage::kScaleRuns == 1 ? 0 : group * Stage::kScaleRunBytes));
#pragma unroll
    for (int m = 0; m < Shape::kMTiles; ++m) {
      const int feature = first + m * 16;
      const auto low = *reinterpret_cast<const Words*>(weights + feature * Stage::kGroupBytes);
      const auto high =
          *reinterpret_cast<const Words*>(weights + (feature + 8) * Stage::kGroupBytes);
      scale[m][0] = ToFloat(scales[feature]);
      scale[m][1] = ToFloat(scales[feature + 8]);
#pragma unroll
      for (int s = 0; s < 2; ++s) MakeFragment<Codec>(low, high, s, a[m][s]);
    }
  }
};

/// acc += the products of one stage; of pairs as MultiplyStage.
template <typename Codec, typename Shape>
__device__ __forceinline__ void MultiplyPacked(char* stage, int num_pairs,
                                               float (&acc)[Shape::kMTiles][Shape::kNTiles][4]) {
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int first_row = warp / Shape::kWarpsM * Shape::kNTiles * 8 + lane / 16 * 8 + lane % 8;
  Bf16* x_stage = reinterpret_cast<Bf16*>(stage + PackedStage<Codec, Shape>::kXAt);
#pragma unroll
  for (int group = 0; group < kGroupsPerStep; ++group) {
    const PackedOperands<Codec, Shape> w(stage, group);
#pragma unroll
    for (int n = 0; n < Shape::kPairs; ++n) {
      if (Shape::kWarpsN == 1 && n > 0 && n >= num_pairs) break;
      uint32_t x[2][4];
#pragma unroll
      for (int s = 0; s < 2; ++s) {
        LoadMatrix4(x[s], ChunkAt(x_stage, first_row + n * 16, group * 4 + s * 2 + lane / 8 % 2));
      }
#pragma unroll
      for (int m = 0; m < Shape::kMTiles; ++m) {
        float sum[2][4] = {};
#pragma unroll
        for (int s = 0; s < 2; ++s) {
          MmaBf16(sum[0], w.a[m][s], x[s][0], x[s][1]);
          MmaBf16(sum[1], w.a[m][s], x[s][2], x[s][3]);
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            float& out = acc[m][2 * n + half][i];
            out = fmaf(w.scale[m][i / 2], sum[half][i], out);
          }
        }
      }
    }
  }
}

/// Blocks take tiles in turn; kStages - 1 stages are on their way while one is multiplied. Shared
/// memory bounds how many blocks there are: the 1 keeps ptxas from spilling to make room for more.
template <typename Codec, typename Shape>
__global__ void __launch_bounds__(Shape::kThreads, 1) PackedGemmKernel(PackedArguments a) {
  constexpr int kStageBytes = PackedStage<Codec, Shape>::kBytes;
  char* stages = DynamicShared<char>();
  const GemmWorkList work =
      ListWork<Shape>(a.gemm, reinterpret_cast<int*>(stages + Shape::kStages * kStageBytes));
  PackedLoader<Codec, Shape> loader(a, work, stages);
  for (int s = 0; s < Shape::kStages - 1; ++s) {
    loader.Next(s);
    CommitCopies();
  }
  const int steps = static_cast<int>(a.groups) / kGroupsPerStep;
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
      MultiplyPacked<Codec, Shape>(stages + stage * kStageBytes, num_pairs, acc);
      free_stage = stage;
      stage = stage + 1 == Shape::kStages ? 0 : stage + 1;
    }
    StoreTile<Shape>(a.gemm, tile, acc);
  }
}

template <typename Codec, typename Shape>
cudaError_t LaunchPacked(const Device& device, const PackedArguments& a) {
  const GemmArguments& g = a.gemm;
  const size_t shared = Shape::kStages * PackedStage<Codec, Shape>::kBytes +
                        2 * static_cast<size_t>(g.num_matrices + 1) * sizeof(int);
  const int64_t row_tiles = g.num_rows / Shape::kN + std::min<int64_t>(g.num_matrices, g.num_rows);
  const int64_t tiles = row_tiles * ((g.weight_rows + Shape::kM - 1) / Shape::kM);
  const int64_t per_multiprocessor =
      std::max<int64_t>(1, device.shared_bytes_per_multiprocessor /
                               (static_cast<int64_t>(shared) + kReservedSharedBytes));
  const int64_t blocks = std::min(tiles, device.num_multiprocessors * per_multiprocessor);
  return Launch(
      PackedGemmKernel<Codec, Shape>,
      {.grid = {static_cast<unsigned>(blocks)}, .block = {Shape::kThreads}, .shared_bytes = shared},
      device.stream, a);
}

/// One launch for the matrices with few rows, one for those with many.
template <typename Codec>
cudaError_t LaunchAll(const Device& device, PackedArguments a, int64_t max_rows) {
  a.gemm.min_rows = 1;
  a.gemm.max_rows = kFewRows;
  if (a.gemm.offsets != nullptr || max_rows <= kFewRows) {
    const cudaError_t error = max_rows <= SkinnyShape::kN
                                  ? LaunchPacked<Codec, SkinnyShape>(device, a)
                                  : LaunchPacked<Codec, FewShape>(device, a);
    if (error != cudaSuccess || max_rows <= kFewRows) return error;
  }
  a.gemm.min_rows = kFewRows + 1;
  a.gemm.max_rows = INT32_MAX;
  return LaunchPacked<Codec, ManyShape>(device, a);
}

}  // namespace

cudaError_t PackedGemm(const Device& device, const GemmParams& p) {
  if (p.num_rows == 0) return cudaSuccess;
  const DeviceMatrix& w = p.weights;
  const PackedArguments a = {.gemm = {.x = reinterpret_cast<const Bf16*>(p.x),
                                      .x_row = p.x_row,
                                      .weights = nullptr,
                                      .num_matrices = static_cast<int>(w.num_matrices),
                                      .weight_rows = w.rows,
                                      .k = w.cols,
                                      .row_stride = 0,
                                      .offsets = p.offsets,
                                      .num_rows = p.num_rows,
                                      .epilogue = p.epilogue,
                                      .out = p.out,
                                      .out_row = p.out_row,
                                      .num_features = p.num_features,
                                      .bias = p.bias,
                                      .scale = p.scale,
                                      .x_is_aligned = w.cols % kChunk == 0},
                             .weights = reinterpret_cast<const char*>(w.data),
                             .scales = static_cast<const char*>(w.scales),
                             .groups = NumGroups(w.encoding, w.cols),
                             .padded_rows = PaddedRows(w.rows)};
  const int64_t max_rows =
      p.offsets == nullptr ? p.num_rows : std::min(p.num_rows, p.max_rows_per_matrix);
  switch (w.encoding) {
    case Encoding::kInt8:
      return LaunchAll<Int8Codec>(device, a, max_rows);
    case Encoding::kInt4:
      return LaunchAll<Int4Codec>(device, a, max_rows);
    case Encoding::kF8E4M3:
      return LaunchAll<F8E4M3Codec>(device, a, max_rows);
    case Encoding::kBf16:
      break;
  }
  return cudaErrorInvalidValue;
}

}  // namespace moed::kernels::cuda
