#pragma once

#include <cstdint>

#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/simd_math_inl.h"

/// RowKernels over the vectors of the simd_*.h included before.
namespace moed::kernels::cpu {
namespace {

float SumOfSquares(const float* x, int64_t n) {
  Vec a = Zero(), b = Zero();  // two chains, joined in one fixed order
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    const Vec u = Load(x + i), v = Load(x + i + kLanes);
    a = Fma(u, u, a);
    b = Fma(v, v, b);
  }
  for (; i < n; i += kLanes) {
    const Vec u = LoadFirst(x + i, n - i);
    a = Fma(u, u, a);
  }
  return Sum(Add(a, b));
}

template <typename T>
void ScaleRow(const float* x, const float* weight, float scale, int64_t n, T* out) {
  const Vec s = Set(scale);
  for (int64_t i = 0; i < n; i += kLanes) {
    const Vec v = Mul(Mul(LoadFirst(x + i, n - i), s), LoadFirst(weight + i, n - i));
    StoreFirst(out + i, v, n - i);
  }
}

void ClampRow(float* x, float limit, int64_t n) {
  const Vec high = Set(limit), low = Set(-limit);
  for (int64_t i = 0; i < n; i += kLanes) {
    StoreFirst(x + i, Min(high, Max(low, LoadFirst(x + i, n - i))), n - i);
  }
}

void RotateHalf(float* x, const float* cos, const float* sin, int64_t half) {
  for (int64_t i = 0; i < half; i += kLanes) {
    const int64_t n = half - i;
    const Vec a = LoadFirst(x + i, n), b = LoadFirst(x + half + i, n);
    const Vec c = LoadFirst(cos + i, n), s = LoadFirst(sin + i, n);
    StoreFirst(x + i, Sub(Mul(a, c), Mul(b, s)), n);
    StoreFirst(x + half + i, Add(Mul(b, c), Mul(a, s)), n);
  }
}

void ToBf16(const float* x, int64_t n, uint16_t* out) {
  for (int64_t i = 0; i < n; i += kLanes) StoreFirst(out + i, LoadFirst(x + i, n - i), n - i);
}

template <typename T>
void AddRow(float a, const T* x, int64_t n, float* y) {
  const Vec factor = Set(a);
  for (int64_t i = 0; i < n; i += kLanes) {
    StoreFirst(y + i, Fma(factor, LoadFirst(x + i, n - i), LoadFirst(y + i, n - i)), n - i);
  }
}

float MaxValue(const float* x, int64_t n) {
  Vec best = Set(-__builtin_inff());
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) best = Max(Load(x + i), best);
  float max = MaxLane(best);
  for (; i < n; ++i) max = x[i] > max ? x[i] : max;
  return max;
}

double ExpAndSum(const float* x, float max, float scale, int64_t n, float* out) {
  constexpr int64_t kBlock = 64 * kLanes;  // summed in f32 lanes, the blocks in double
  const Vec m = Set(max), s = Set(scale), lowest = Set(-1e30f);
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t end = n - begin < kBlock ? n : begin + kBlock;
    Vec sum = Zero();
    for (int64_t i = begin; i < end; i += kLanes) {
      // Max gives `lowest` for NaN. Beyond the end, exp(0 - max) is not wanted in the sum.
      const Vec e = Exp(Max(Mul(Sub(LoadFirst(x + i, end - i), m), s), lowest));
      StoreFirst(out + i, e, end - i);
      sum = Add(sum, LoadFirst(out + i, end - i));
    }
    total += static_cast<double>(Sum(sum));
  }
  return total;
}

constexpr RowKernels kRowKernels = {
    .sum_of_squares = SumOfSquares,
    .scale_to_f32 = ScaleRow<float>,
    .scale_to_bf16 = ScaleRow<uint16_t>,
    .clamp = ClampRow,
    .rotate_half = RotateHalf,
    .to_bf16 = ToBf16,
    .add_f32 = AddRow<float>,
    .add_bf16 = AddRow<uint16_t>,
    .max_value = MaxValue,
    .exp_and_sum = ExpAndSum,
};

}  // namespace
}  // namespace moed::kernels::cpu
