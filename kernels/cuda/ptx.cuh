#pragma once

#include <cstdint>

#include "kernels/cuda/device.cuh"

/// The instructions that C++ has no words for, each beside a portable body that does the same on
/// the CUDA emulation. sm_80 and later.
namespace moed::kernels::cuda {

#ifdef __CUDACC__
__device__ __forceinline__ uint32_t SharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}
#endif

/// Starts copying `bytes` (0..16) from global to 16 bytes of shared memory, zero beyond. Both
/// addresses are multiples of 16.
__device__ __forceinline__ void CopyAsync16(void* shared, const void* global, int bytes) {
#ifdef __CUDACC__
  asm volatile(
      "cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(SharedAddress(shared)),
      "l"(global), "r"(bytes)
      : "memory");
#else
  cuda_emulation::CopyAsync(shared, global, bytes, {__FILE__, __LINE__});
#endif
}

/// Ends a group of copies of this thread.
__device__ __forceinline__ void CommitCopies() {
#ifdef __CUDACC__
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  cuda_emulation::CommitCopies();
#endif
}

/// Waits until at most kPending of this thread's groups are not done. Other threads see the data
/// after a barrier.
template <int kPending>
__device__ __forceinline__ void WaitForCopies() {
#ifdef __CUDACC__
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#else
  cuda_emulation::WaitForCopies(kPending);
#endif
}

#ifndef __CUDACC__
/// One lane's part of ldmatrix: the address of a row of 16 bytes, and what it gets.
struct LoadMatrixLane {
  const void* row;
  uint32_t* out;  // [4]
};

/// Lane l's register i: of the 8 x 8 matrix i, whose rows lanes 8i..8i+7 name, row l / 4, columns
/// 2 (l % 4) and the next; or with rows and columns exchanged.
template <bool kTranspose>
void LoadMatrices(LoadMatrixLane* const* lanes) {
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      uint32_t value = 0;
      for (int half = 0; half < 2; ++half) {
        const int row = kTranspose ? 2 * (lane % 4) + half : lane / 4;
        const int column = kTranspose ? lane / 4 : 2 * (lane % 4) + half;
        const auto* numbers = static_cast<const uint16_t*>(lanes[8 * i + row]->row);
        value |= static_cast<uint32_t>(numbers[column]) << (16 * half);
      }
      lanes[lane]->out[i] = value;
    }
  }
}
#endif

/// Four 8 x 8 matrices of bf16 from shared memory to the registers of the warp, as mma wants them.
/// Lane l names row l % 8 of matrix l / 8.
__device__ __forceinline__ void LoadMatrix4(uint32_t (&out)[4], const void* row) {
#ifdef __CUDACC__
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(SharedAddress(row))
               : "memory");
#else
  const cuda_emulation::Site site = {__FILE__, __LINE__};
  cuda_emulation::CheckShared(row, 16, "a row of ldmatrix", site);
  LoadMatrixLane lane = {row, out};
  cuda_emulation::WarpOperation(
      "ldmatrix", kAllLanes, lane, [](LoadMatrixLane* const* lanes) { LoadMatrices<false>(lanes); },
      site);
#endif
}

/// LoadMatrix4 with each matrix transposed.
__device__ __forceinline__ void LoadMatrix4Transposed(uint32_t (&out)[4], const void* row) {
#ifdef __CUDACC__
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(SharedAddress(row))
               : "memory");
#else
  const cuda_emulation::Site site = {__FILE__, __LINE__};
  cuda_emulation::CheckShared(row, 16, "a row of ldmatrix.trans", site);
  LoadMatrixLane lane = {row, out};
  cuda_emulation::WarpOperation(
      "ldmatrix.trans", kAllLanes, lane,
      [](LoadMatrixLane* const* lanes) { LoadMatrices<true>(lanes); }, site);
#endif
}

#ifndef __CUDACC__
/// One lane's registers of mma.
struct MmaLane {
  float* d;           // [4]
  const uint32_t* a;  // [4]
  const uint32_t* b;  // [2]
};

inline float HalfOf(uint32_t pair, int half) {
  return ToFloat(Bf16{static_cast<uint16_t>(pair >> (16 * half))});
}

/// The layouts of PTX's "Matrix Fragments for mma.m16n8k16 with floating point type".
inline void MultiplyFragments(MmaLane* const* lanes) {
  float a[16][16], b[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    for (int half = 0; half < 2; ++half) {
      const int row = lane / 4, k = 2 * (lane % 4) + half;
      for (int i = 0; i < 4; ++i) {
        a[row + 8 * (i % 2)][k + 8 * (i / 2)] = HalfOf(lanes[lane]->a[i], half);
      }
      for (int i = 0; i < 2; ++i) b[k + 8 * i][lane / 4] = HalfOf(lanes[lane]->b[i], half);
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
      float sum = 0;
      for (int k = 0; k < 16; ++k) sum += a[row][k] * b[k][column];
      lanes[lane]->d[i] += sum;
    }
  }
}
#endif

/// d += a b over the warp: a 16 x 16 by rows, b 16 x 8 by columns, both bf16, d 16 x 8 in f32. A
/// lane holds in d the rows lane / 4 (d[0], d[1]) and lane / 4 + 8 (d[2], d[3]) of the columns
/// 2 (lane % 4) and the next.
__device__ __forceinline__ void MmaBf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                        uint32_t b1) {
#ifdef __CUDACC__
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  const uint32_t b[2] = {b0, b1};
  MmaLane lane = {d, a, b};
  cuda_emulation::WarpOperation("mma.m16n8k16", kAllLanes, lane,
                                [](MmaLane* const* lanes) { MultiplyFragments(lanes); },
                                {__FILE__, __LINE__});
#endif
}

/// a * b + c of both halves of registers of bf16, each rounded once.
__device__ __forceinline__ uint32_t FmaBf16x2(uint32_t a, uint32_t b, uint32_t c) {
#ifdef __CUDACC__
  uint32_t d;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
#else
  const auto half = [](uint32_t pair, int i) {
    return ToFloat(Bf16{static_cast<uint16_t>(pair >> (16 * i))});
  };
  return PackBf16(fmaf(half(a, 0), half(b, 0), half(c, 0)),
                  fmaf(half(a, 1), half(b, 1), half(c, 1)));
#endif
}

}  // namespace moed::kernels::cuda
