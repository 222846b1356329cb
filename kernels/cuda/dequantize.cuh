#pragma once

#include <cstdint>

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/packed_layout.cuh"
#include "kernels/cuda/ptx.cuh"

/// From packed weights to operands of mma, in registers. Integers and e4m3 numbers are exact in
/// bf16, so that nothing is rounded before the sums of a group meet its scale.
namespace moed::kernels::cuda {

/// The words that a lane holds of one row's group.
template <int kWords>
struct alignas(4 * kWords) PackedWords {
  uint32_t word[kWords];
};

/// What the encodings have in common: where the words of a lane lie, and how pairs of elements make
/// an operand. A codec gives Pair(words, s, h): elements 16 s + 2 q + 8 h and the next, as bf16.
template <typename Codec, int kWords>
__device__ __forceinline__ void MakeFragment(const PackedWords<kWords>& row,
                                             const PackedWords<kWords>& row_plus_8, int s,
                                             uint32_t (&a)[4]) {
  a[0] = Codec::Pair(row, s, 0);
  a[1] = Codec::Pair(row_plus_8, s, 0);
  a[2] = Codec::Pair(row, s, 1);
  a[3] = Codec::Pair(row_plus_8, s, 1);
}

struct Int8Codec {
  static constexpr Encoding kEncoding = Encoding::kInt8;
  using Words = PackedWords<2>;
  using Scale = Bf16;

  /// A byte becomes the last of the mantissa of 2^23; the difference has 8 bits, which the upper
  /// half of a float holds.
  static __device__ __forceinline__ uint32_t Pair(const Words& w, int s, int h) {
    const uint32_t word = w.word[s] >> (8 * h);
    const float low = __uint_as_float(0x4b000000u | (word & 0xffu)) - 8388736.0f;
    const float high = __uint_as_float(0x4b000000u | ((word >> 16) & 0xffu)) - 8388736.0f;
    return (__float_as_uint(low) >> 16) | (__float_as_uint(high) & 0xffff0000u);
  }
};

struct Int4Codec {
  static constexpr Encoding kEncoding = Encoding::kInt4;
  using Words = PackedWords<1>;
  using Scale = Bf16;

  /// A nibble becomes the last of the mantissa of 128: 128 + (q + 8).
  static __device__ __forceinline__ uint32_t Pair(const Words& w, int s, int h) {
    const uint32_t biased = ((w.word[0] >> (8 * s + 4 * h)) & 0x000f000fu) | 0x43004300u;
    return FmaBf16x2(biased, 0x3f803f80u, 0xc308c308u);  // - 136
  }
};

struct F8E4M3Codec {
  static constexpr Encoding kEncoding = Encoding::kF8E4M3;
  using Words = PackedWords<2>;
  using Scale = float;

  /// Exponent and mantissa move to their place in bf16, whose bias is 120 larger. A NaN would
  /// become 480: it has made its scale NaN.
  static __device__ __forceinline__ uint32_t Pair(const Words& w, int s, int h) {
    const uint32_t word = h == 0 ? w.word[s] << 8 : w.word[s];
    const uint32_t biased = (word & 0x80008000u) | ((word >> 4) & 0x07f007f0u);
    return FmaBf16x2(biased, 0x7b807b80u, 0x80008000u);  // * 2^120
  }
};

}  // namespace moed::kernels::cuda
