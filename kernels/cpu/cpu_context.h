#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "config/base/dtype.h"
#include "kernels/cpu/aligned_buffer.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/thread_pool.h"

namespace moed::kernels::cpu {

/// What every CPU op needs: the kernels of the chosen instruction set, the threads, and scratch
/// memory.
///
/// Owned by CpuBackend and used from the thread that calls its ops.
class CpuContext {
 public:
  CpuContext(const KernelTable& kernels, DType activation_dtype, std::unique_ptr<ThreadPool> pool)
      : kernels_(kernels),
        activation_dtype_(activation_dtype),
        pool_(std::move(pool)),
        scratch_(pool_->num_threads()) {}

  const KernelTable& kernels() const { return kernels_; }
  DType activation_dtype() const { return activation_dtype_; }
  ThreadPool& pool() { return *pool_; }

  /// Runs body(row, thread) for every row: in this thread alone if there is little to do.
  void ForEachRow(int64_t rows, int64_t elements_per_row, ThreadPool::Task body);

  /// Makes Scratch(thread) at least `bytes` large for every thread. Aborts when memory is short:
  /// scratch is some hundred kilobytes.
  void ReserveScratch(int64_t bytes);
  /// Memory that all threads of an op share, at least `bytes`, 64-byte aligned; what was in it is
  /// lost. Aborts when memory is short: it is some megabytes.
  void* ReserveShared(int64_t bytes);
  void* Scratch(int thread) { return scratch_[thread].get(); }

 private:
  const KernelTable kernels_;
  const DType activation_dtype_;
  const std::unique_ptr<ThreadPool> pool_;
  std::vector<AlignedMemory> scratch_;  // one per thread
  int64_t scratch_bytes_ = 0;
  AlignedMemory shared_;
  int64_t shared_bytes_ = 0;
};

}  // namespace moed::kernels::cpu
