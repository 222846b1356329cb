#pragma once

#include <cstdint>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/cuda_context.h"
#include "kernels/params.h"

namespace moed::kernels::cuda {

/// Device memory that grows and then stays. Owned like the context, which must outlive it.
class GrowingMemory {
 public:
  explicit GrowingMemory(CudaContext& context) : context_(context) {}
  GrowingMemory(const GrowingMemory&) = delete;
  GrowingMemory& operator=(const GrowingMemory&) = delete;
  ~GrowingMemory();

  /// Makes room for so many bytes; true when that moved it. What it held is lost then.
  bool Reserve(int64_t bytes);
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  CudaContext& context_;
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

/// The attention plan of a step, made and uploaded once for all its layers, in memory that stays
/// where it is, so that a recorded step finds the plan of the step that repeats it.
///
/// Owned by CudaBackend and used from its thread.
class StepAttention {
 public:
  /// The context must outlive it.
  explicit StepAttention(CudaContext& context);

  /// Plans `step`, whose attention is not null. True when memory has moved, so that recordings
  /// that use it are void.
  bool Begin(const StepParams& step);
  void End() { batch_ = nullptr; }

  /// Whether Begin has planned this batch.
  bool Has(const AttentionBatch* batch) const { return batch != nullptr && batch == batch_; }
  const AttentionArrays& arrays() const { return arrays_; }

 private:
  bool Reserve(const AttentionPlan& plan, const StepParams& step);
  void Upload(const AttentionPlan& plan, const StepParams& step);

  CudaContext& context_;
  const AttentionBatch* batch_ = nullptr;
  AttentionArrays arrays_;
  GrowingMemory counts_, block_tables_, few_, many_, merge_, partials_;
};

}  // namespace moed::kernels::cuda
