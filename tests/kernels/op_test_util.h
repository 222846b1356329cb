#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/backend.h"
#include "kernels/create_backend.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MOED_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define MOED_SANITIZED 1
#endif
#endif
#ifndef MOED_SANITIZED
#define MOED_SANITIZED 0
#endif

/// What the op tests share: backends to test, tensors in backend memory, and the tolerance table.
namespace moed::kernels {

/// One backend to run the op tests on.
struct OpConfig {
  std::string instruction_set;  // of the CPU
  DType dtype;                  // of activations
  std::string device = "cpu";   // or "cuda:0", or "cuda-emulation:0": tests/cuda_emulation
};
std::string ConfigName(const testing::TestParamInfo<OpConfig>& info);
void PrintTo(const OpConfig& config, std::ostream* out);

/// Every instruction set of this machine in bf16 and f32; the CUDA backend in bf16, on a GPU where
/// it was built for one and there is one, and emulated where it was not.
std::vector<OpConfig> AllConfigs();

/// The numbers of threads to try: a CUDA backend has none.
std::vector<int> ThreadCounts(const OpConfig& config);

std::unique_ptr<Backend> MakeBackend(const OpConfig& config, int num_threads = 1);

/// The tolerance table: |value - expected| <= relative * (|expected| + typical), with `typical` the
/// root mean square of all expected values. Inputs of a reference are rounded as the backend's are,
/// so that the rest is the order of sums, and the rounding of outputs and of intermediate values.
struct Tolerance {
  float f32_output;
  float activation_output;
};
Tolerance ToleranceOf(DType activation_dtype);

float RoundTo(DType dtype, float x);
uint16_t ToBf16Bits(float x);
uint16_t ToF16Bits(float x);

/// n normally distributed values, times scale, rounded to dtype. With MOED_TEST_SEED=N in the
/// environment they are others.
std::vector<float> RandomValues(int64_t n, uint32_t seed, DType dtype, float scale = 1.0f);

/// A matrix in backend memory. Fresh ones are poisoned: every byte is 0xff, a NaN in all formats.
class Tensor {
 public:
  Tensor(Backend& backend, DType dtype, int64_t rows, int64_t cols);
  Tensor(Backend& backend, DType dtype, int64_t cols, const std::vector<float>& values);

  TensorView view() const { return {buffer_.data(), dtype_, rows_, cols_}; }
  /// The first `rows` rows.
  TensorView view(int64_t rows) const { return {buffer_.data(), dtype_, rows, cols_}; }
  template <typename T>
  T* data() const {
    return buffer_.as<T>();
  }
  std::vector<float> values() const;
  std::vector<uint8_t> bytes() const;
  std::vector<uint8_t> row_bytes(int64_t row) const;

 private:
  Backend& backend_;
  DType dtype_;
  int64_t rows_;
  int64_t cols_;
  Buffer buffer_;
};

/// Int32 values in backend memory.
class IntArray {
 public:
  IntArray(Backend& backend, const std::vector<int32_t>& values);
  int32_t* data() const { return buffer_.as<int32_t>(); }

 private:
  Buffer buffer_;
};

/// Host memory of a weight matrix in a storage format, rows apart by `stride` elements.
class HostWeights {
 public:
  HostWeights(const std::vector<float>& values, int64_t cols, DType dtype, int64_t stride = 0);
  HostMatrix matrix() const;

 private:
  std::vector<uint8_t> bytes_;
  DType dtype_;
  int64_t rows_;
  int64_t cols_;
  int64_t stride_;
};

void ExpectClose(const std::vector<float>& got, const std::vector<float>& expected, float tolerance,
                 const std::string& what);

}  // namespace moed::kernels
