#include <cuda_runtime.h>

#include <chrono>

#include "absl/strings/str_cat.h"
#include "config/base/status_macros.h"
#include "tests/gpu/bench_table.h"

namespace moed::gpu_bench {
namespace {

absl::Status ToStatus(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(what, ": ", cudaGetErrorString(error)));
}

absl::StatusOr<double> TimeCopies(char* memory, int64_t half_bytes) {
  constexpr int kCopies = 20;
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < kCopies; ++i) {
    MOED_RETURN_IF_ERROR(
        ToStatus(cudaMemcpyAsync(memory + half_bytes, memory, static_cast<size_t>(half_bytes),
                                 cudaMemcpyDeviceToDevice),
                 "copying on the device"));
  }
  MOED_RETURN_IF_ERROR(ToStatus(cudaDeviceSynchronize(), "copying on the device"));
  const auto seconds = std::chrono::steady_clock::now() - begin;
  return std::chrono::duration<double>(seconds).count() / kCopies;
}

absl::StatusOr<double> MeasureCopy(int64_t half_bytes) {
  void* memory = nullptr;
  MOED_RETURN_IF_ERROR(
      ToStatus(cudaMalloc(&memory, static_cast<size_t>(2 * half_bytes)), "allocating memory"));
  absl::StatusOr<double> best = 0.0;
  for (int i = 0; best.ok() && i < 4; ++i) {  // the first warms up
    const absl::StatusOr<double> seconds = TimeCopies(static_cast<char*>(memory), half_bytes);
    if (!seconds.ok()) {
      best = seconds;
    } else if (i > 0) {
      best = std::max(*best, 2.0 * static_cast<double>(half_bytes) / *seconds);
    }
  }
  cudaFree(memory);
  return best;
}

}  // namespace

absl::StatusOr<DeviceCeilings> MeasureDevice(int64_t num_bytes) {
  DeviceCeilings ceilings;
  MOED_ASSIGN_OR_RETURN(ceilings.copy_bytes_per_s, MeasureCopy(num_bytes / 2));
  const absl::StatusOr<double> cublas = MeasureCublas(8192);
  if (cublas.ok()) {
    ceilings.bf16_ops_per_s = *cublas;
  } else if (!absl::IsUnimplemented(cublas.status())) {
    return cublas.status();
  }
  return ceilings;
}

}  // namespace moed::gpu_bench
