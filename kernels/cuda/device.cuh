#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "config/base/dtype.h"

/// What every kernel needs. The kernels are compiled by nvcc, and as C++ against
/// tests/cuda_emulation; the few places where the two differ are in this file and in ptx.cuh.
namespace moed::kernels::cuda {

constexpr uint32_t kAllLanes = 0xffffffffu;
constexpr int kWarpSize = 32;

/// The bits of a bf16 number.
struct Bf16 {
  uint16_t bits;
};

__device__ __forceinline__ float ToFloat(float x) { return x; }
__device__ __forceinline__ float ToFloat(Bf16 x) {
  return __uint_as_float(static_cast<uint32_t>(x.bits) << 16);
}

/// Rounds to nearest, ties to even; NaN stays NaN.
__device__ __forceinline__ Bf16 ToBf16(float x) {
#ifdef __CUDA_ARCH__
  Bf16 out;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out.bits) : "f"(x));
  return out;
#else
  const uint32_t bits = __float_as_uint(x);
  if (x != x) return {static_cast<uint16_t>((bits >> 16) | 0x40u)};
  return {static_cast<uint16_t>((bits + ((bits >> 16) & 1u) + 0x7fffu) >> 16)};
#endif
}

template <typename T>
__device__ __forceinline__ T FromFloat(float x);
template <>
__device__ __forceinline__ float FromFloat<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ Bf16 FromFloat<Bf16>(float x) {
  return ToBf16(x);
}

/// Two numbers as a register of an mma operand: `low` in the low half.
__device__ __forceinline__ uint32_t PackBf16(float low, float high) {
  return static_cast<uint32_t>(ToBf16(low).bits) | (static_cast<uint32_t>(ToBf16(high).bits) << 16);
}

/// The block's dynamic shared memory.
template <typename T>
__device__ __forceinline__ T* DynamicShared() {
#ifdef __CUDACC__
  extern __shared__ __align__(128) unsigned char dynamic_shared[];
  return reinterpret_cast<T*>(dynamic_shared);
#else
  return static_cast<T*>(cuda_emulation::DynamicSharedMemory());
#endif
}

struct LaunchShape {
  dim3 grid;
  dim3 block;
  size_t shared_bytes = 0;
};

/// kernel<<<grid, block, shared_bytes, stream>>>(arguments...), and its error. Asks for the shared
/// memory that a kernel may not have by default.
template <typename... Parameters, typename... Arguments>
cudaError_t Launch(void (*kernel)(Parameters...), const LaunchShape& shape, cudaStream_t stream,
                   Arguments... arguments) {
  if (shape.grid.x == 0 || shape.grid.y == 0) return cudaSuccess;
  if (shape.shared_bytes > (48 << 10)) {
    const cudaError_t error = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shape.shared_bytes));
    if (error != cudaSuccess) return error;
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
}

/// x / (1 + e^-x)
__device__ __forceinline__ float Silu(float x) { return x / (1.0f + expf(-x)); }

/// The sum over a warp, the same in all lanes, in one fixed order.
template <typename T>
__device__ __forceinline__ T WarpSum(T x) {
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
    x += __shfl_xor_sync(kAllLanes, x, offset);
  }
  return x;
}

__device__ __forceinline__ float WarpMax(float x) {
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
    x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, offset));
  }
  return x;
}

/// The sum over a block of whole warps, the same in all threads, in one fixed order. `scratch` is
/// shared memory for 32 values; all threads must call.
template <typename T>
__device__ __forceinline__ T BlockSum(T x, T* scratch) {
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int num_warps = static_cast<int>(blockDim.x) / kWarpSize;
  x = WarpSum(x);
  if (lane == 0) scratch[warp] = x;
  __syncthreads();
  T sum = scratch[0];
  for (int i = 1; i < num_warps; ++i) sum += scratch[i];
  __syncthreads();
  return sum;
}

}  // namespace moed::kernels::cuda
