#include "kernels/cpu/cpu_context.h"

#include "config/base/check.h"

namespace moed::kernels::cpu {
namespace {

// Waking the other threads costs about as much as this many elements of a row op.
constexpr int64_t kSmallWork = 16384;

}  // namespace

void CpuContext::ForEachRow(int64_t rows, int64_t elements_per_row, ThreadPool::Task body) {
  if (rows * elements_per_row <= kSmallWork) {
    for (int64_t row = 0; row < rows; ++row) body(row, 0);
    return;
  }
  const int64_t rows_per_task = kSmallWork / 4 / elements_per_row + 1;
  const int64_t num_tasks = (rows + rows_per_task - 1) / rows_per_task;
  pool_->ParallelFor(num_tasks, [&](int64_t task, int thread) {
    const int64_t begin = task * rows_per_task;
    const int64_t end = begin + rows_per_task < rows ? begin + rows_per_task : rows;
    for (int64_t row = begin; row < end; ++row) body(row, thread);
  });
}

void CpuContext::ReserveScratch(int64_t bytes) {
  if (bytes <= scratch_bytes_) return;
  for (AlignedMemory& memory : scratch_) {
    memory = AllocateAligned(bytes);
    MOED_CHECK(memory != nullptr);
  }
  scratch_bytes_ = bytes;
}

void* CpuContext::ReserveShared(int64_t bytes) {
  if (bytes > shared_bytes_) {
    shared_.reset();
    shared_ = AllocateAligned(bytes);
    MOED_CHECK(shared_ != nullptr);
    shared_bytes_ = bytes;
  }
  return shared_.get();
}

}  // namespace moed::kernels::cpu
