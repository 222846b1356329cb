#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/device_matrix.h"

/// How matrices of integers and of fp8 lie in device memory.
///
/// The bytes are [num_matrices, groups, padded rows, group bytes]: what a tile of the GEMM reads of
/// a step along K is one run for each group of 32. Within a row's group of 32, the elements that
/// one lane of mma.m16n8k16 needs lie together: lane l % 4 = q needs, for each half s of 16, the
/// elements 16 s + {2 q, 2 q + 1, 2 q + 8, 2 q + 9}. Bytes: 8 for each q, 4 for each s in the order
/// {2 q, 2 q + 8, 2 q + 1, 2 q + 9}. Nibbles: 8 for each q, the lowest first: number 2 s + h is
/// element 16 s + 2 q + 8 h, and number 4 + 2 s + h its right neighbour.
///
/// Scales are [num_matrices, groups / groups per scale, padded rows], bf16 or f32.
namespace moed::kernels::cuda {

constexpr int kPackedGroup = 32;  // elements along K
constexpr int kGroupsPerStep = static_cast<int>(kKTile) / kPackedGroup;
constexpr int kScaleRows = 16;  // padded rows are a multiple of it

/// Bytes of a row's group.
__host__ __device__ constexpr int GroupBytes(Encoding encoding) {
  return encoding == Encoding::kInt4 ? 16 : 32;
}
__host__ __device__ constexpr int ScaleBytes(Encoding encoding) {
  return encoding == Encoding::kF8E4M3 ? 4 : 2;
}
__host__ __device__ constexpr int GroupsPerScale(Encoding encoding) {
  return encoding == Encoding::kF8E4M3 ? 4 : 1;
}

__host__ __device__ constexpr int64_t PaddedRows(int64_t rows) {
  return (rows + kScaleRows - 1) / kScaleRows * kScaleRows;
}
/// Groups of a row; whole steps of the GEMM and whole scales.
__host__ __device__ constexpr int64_t NumGroups(Encoding encoding, int64_t cols) {
  const int64_t unit = encoding == Encoding::kF8E4M3 ? 4 : kGroupsPerStep;
  return (cols + unit * kPackedGroup - 1) / (unit * kPackedGroup) * unit;
}

/// Where element k of a group lies: its byte, or for nibbles the byte and which half of it.
struct ElementPlace {
  int byte;
  int shift;
};
__host__ __device__ constexpr ElementPlace PlaceOf(Encoding encoding, int k) {
  const int s = k / 16, q = k % 8 / 2, h = k % 16 / 8, odd = k % 2;
  if (encoding != Encoding::kInt4) return {8 * q + 4 * s + 2 * odd + h, 0};
  const int nibble = 2 * s + h + 4 * odd;
  return {4 * q + nibble / 2, 4 * (nibble % 2)};
}

}  // namespace moed::kernels::cuda
