#include "kernels/cuda/dequantize.cuh"
#include "kernels/cuda/packed_rows.h"

namespace moed::kernels::cuda {
namespace {

constexpr int kThreads = 128;

struct PackArguments {
  const void* rows;
  const float* scales;
  int64_t first_row, num_rows;
  int64_t matrix_rows, padded_rows, cols, groups;
  char* data;
  char* to_scales;
};

/// Where the thread's row goes: group 0 of it, counted in rows of groups.
__device__ __forceinline__ int64_t TargetRow(const PackArguments& a, int64_t row, int64_t runs) {
  const int64_t at = a.first_row + row;
  return at / a.matrix_rows * runs * a.padded_rows + at % a.matrix_rows;
}

template <int kBytes>
__device__ __forceinline__ void StoreGroup(const uint32_t (&words)[kBytes / 4], char* to) {
#pragma unroll
  for (int i = 0; i < kBytes / 16; ++i) {
    PackedWords<4> chunk;
#pragma unroll
    for (int j = 0; j < 4; ++j) chunk.word[j] = words[4 * i + j];
    reinterpret_cast<PackedWords<4>*>(to)[i] = chunk;
  }
}

/// The scale that a group's elements ask for, in f32.
template <Encoding kEncoding>
__device__ __forceinline__ float WantedScale(const float (&w)[kPackedGroup]) {
  uint32_t largest = 0;
  float extreme = 0;
#pragma unroll
  for (int k = 0; k < kPackedGroup; ++k) {
    const uint32_t magnitude = __float_as_uint(w[k]) & 0x7fffffffu;
    if (magnitude > largest) extreme = w[k];
    largest = magnitude > largest ? magnitude : largest;
  }
  if (largest > 0x7f7fffffu) return NAN;
  return kEncoding == Encoding::kInt8 ? __uint_as_float(largest) / 127.0f : extreme / -8.0f;
}

/// One thread packs one group of one row.
template <Encoding kEncoding, typename Source>
__global__ void PackIntegersKernel(PackArguments a) {
  const int64_t index = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const int64_t row = index % a.num_rows, group = index / a.num_rows;
  if (group >= a.groups) return;
  const Source* from = static_cast<const Source*>(a.rows) + row * a.cols + group * kPackedGroup;
  const int64_t count = a.cols - group * kPackedGroup;
  float w[kPackedGroup];
#pragma unroll
  for (int k = 0; k < kPackedGroup; ++k) w[k] = k < count ? ToFloat(from[k]) : 0.0f;
  const Bf16 rounded = ToBf16(WantedScale<kEncoding>(w));
  const float scale = ToFloat(rounded);
  // Up to 2^-128 the inverse would be infinite.
  const bool has_inverse = (rounded.bits & 0x7fffu) > 0x0020u;
  const float inverse = has_inverse ? 1.0f / scale : 0.0f;
  constexpr int kOffset = kEncoding == Encoding::kInt8 ? 128 : 8;
  constexpr float kLowest = kEncoding == Encoding::kInt8 ? -127.0f : -8.0f;
  constexpr float kHighest = kEncoding == Encoding::kInt8 ? 127.0f : 7.0f;
  constexpr int kBytes = GroupBytes(kEncoding);
  uint32_t words[kBytes / 4] = {};
#pragma unroll
  for (int k = 0; k < kPackedGroup; ++k) {
    const float y = w[k] * inverse;
    const int q = y != y ? 0 : static_cast<int>(rintf(fmaxf(kLowest, fminf(kHighest, y))));
    const ElementPlace place = PlaceOf(kEncoding, k);
    words[place.byte / 4] |= static_cast<uint32_t>(q + kOffset)
                             << (8 * (place.byte % 4) + place.shift);
  }
  const int64_t target = TargetRow(a, row, a.groups) + group * a.padded_rows;
  StoreGroup<kBytes>(words, a.data + target * kBytes);
  reinterpret_cast<Bf16*>(a.to_scales)[target] = rounded;
}

/// One thread packs the 128 elements of one row that have one scale.
__global__ void PackFp8Kernel(PackArguments a) {
  constexpr int kGroups = GroupsPerScale(Encoding::kF8E4M3);
  constexpr int kBytes = GroupBytes(Encoding::kF8E4M3);
  const int64_t index = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const int64_t row = index % a.num_rows, block = index / a.num_rows;
  if (block * kGroups >= a.groups) return;
  const auto* from = static_cast<const unsigned char*>(a.rows) + row * a.cols;
  const int64_t target = TargetRow(a, row, a.groups) + block * kGroups * a.padded_rows;
  bool has_nan = false;
  for (int g = 0; g < kGroups; ++g) {
    const int64_t begin = (block * kGroups + g) * kPackedGroup;
    uint32_t words[kBytes / 4] = {};
#pragma unroll
    for (int k = 0; k < kPackedGroup; ++k) {
      const uint32_t bits = begin + k < a.cols ? from[begin + k] : 0u;
      has_nan = has_nan || (bits & 0x7fu) == 0x7fu;
      const ElementPlace place = PlaceOf(Encoding::kF8E4M3, k);
      words[place.byte / 4] |= bits << (8 * (place.byte % 4));
    }
    StoreGroup<kBytes>(words, a.data + (target + g * a.padded_rows) * kBytes);
  }
  const int64_t blocks = a.groups / kGroups;
  reinterpret_cast<float*>(a.to_scales)[TargetRow(a, row, blocks) + block * a.padded_rows] =
      has_nan ? NAN : a.scales[row * blocks + block];
}

/// The element of a row of a packed matrix.
template <Encoding kEncoding>
__device__ float ElementOf(const PackArguments& table, int64_t row, int64_t column) {
  const int64_t group = column / kPackedGroup;
  const ElementPlace place = PlaceOf(kEncoding, static_cast<int>(column % kPackedGroup));
  const int64_t at = group * table.padded_rows + row;
  const uint32_t byte =
      static_cast<unsigned char>(table.data[at * GroupBytes(kEncoding) + place.byte]);
  if constexpr (kEncoding == Encoding::kF8E4M3) {
    const float magnitude = __uint_as_float((byte & 0x7fu) << 20) * 0x1p120f;
    const int64_t run = group / GroupsPerScale(kEncoding);
    return (byte & 0x80u ? -magnitude : magnitude) *
           reinterpret_cast<const float*>(table.to_scales)[run * table.padded_rows + row];
  } else {
    const float scale = ToFloat(reinterpret_cast<const Bf16*>(table.to_scales)[at]);
    const int q = kEncoding == Encoding::kInt8 ? static_cast<int>(byte) - 128
                                               : static_cast<int>((byte >> place.shift) & 15u) - 8;
    return scale * static_cast<float>(q);
  }
}

/// One block per token.
template <Encoding kEncoding>
__global__ void EmbedPackedKernel(PackArguments table, const int32_t* ids, float scale,
                                  float* hidden) {
  const int64_t row = ids[blockIdx.x];
  for (int64_t i = threadIdx.x; i < table.cols; i += blockDim.x) {
    hidden[blockIdx.x * table.cols + i] = scale * ElementOf<kEncoding>(table, row, i);
  }
}

PackArguments ArgumentsOf(const DeviceMatrix& m) {
  PackArguments a = {};
  a.matrix_rows = m.rows;
  a.padded_rows = PaddedRows(m.rows);
  a.cols = m.cols;
  a.groups = NumGroups(m.encoding, m.cols);
  a.data = reinterpret_cast<char*>(const_cast<uint16_t*>(m.data));
  a.to_scales = static_cast<char*>(const_cast<void*>(m.scales));
  return a;
}

template <typename Kernel>
cudaError_t LaunchPack(const Device& device, Kernel kernel, const PackArguments& a,
                       int64_t groups_per_thread) {
  const int64_t threads = a.num_rows * (a.groups / groups_per_thread);
  return Launch(
      kernel,
      {.grid = {static_cast<unsigned>((threads + kThreads - 1) / kThreads)}, .block = {kThreads}},
      device.stream, a);
}

}  // namespace

cudaError_t PackRows(const Device& device, const PackRowsParams& p) {
  PackArguments a = ArgumentsOf(p.to);
  a.rows = p.rows;
  a.scales = p.scales;
  a.first_row = p.first_row;
  a.num_rows = p.num_rows;
  const bool is_bf16 = p.source == DType::kBF16;
  switch (p.to.encoding) {
    case Encoding::kInt8:
      return LaunchPack(device,
                        is_bf16 ? PackIntegersKernel<Encoding::kInt8, Bf16>
                                : PackIntegersKernel<Encoding::kInt8, float>,
                        a, 1);
    case Encoding::kInt4:
      return LaunchPack(device,
                        is_bf16 ? PackIntegersKernel<Encoding::kInt4, Bf16>
                                : PackIntegersKernel<Encoding::kInt4, float>,
                        a, 1);
    case Encoding::kF8E4M3:
      return LaunchPack(device, PackFp8Kernel, a, GroupsPerScale(Encoding::kF8E4M3));
    case Encoding::kBf16:
      break;
  }
  return cudaErrorInvalidValue;
}

cudaError_t EmbedPackedTokens(const Device& device, const DeviceMatrix& table, const int32_t* ids,
                              float scale, TensorView hidden) {
  const LaunchShape shape = {.grid = {static_cast<unsigned>(hidden.rows)}, .block = {kThreads}};
  const PackArguments a = ArgumentsOf(table);
  const auto launch = [&](auto* kernel) {
    return Launch(kernel, shape, device.stream, a, ids, scale, hidden.as<float>());
  };
  switch (table.encoding) {
    case Encoding::kInt8:
      return launch(EmbedPackedKernel<Encoding::kInt8>);
    case Encoding::kInt4:
      return launch(EmbedPackedKernel<Encoding::kInt4>);
    case Encoding::kF8E4M3:
      return launch(EmbedPackedKernel<Encoding::kF8E4M3>);
    case Encoding::kBf16:
      break;
  }
  return cudaErrorInvalidValue;
}

}  // namespace moed::kernels::cuda
