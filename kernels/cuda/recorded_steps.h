#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <map>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "kernels/cuda/cuda_context.h"

namespace moed::kernels::cuda {

/// CUDA graphs of steps, by number of rows. The first step of a number runs as it comes, which also
/// loads its kernels; the second is recorded; from then on the recording is launched.
///
/// Owned by CudaBackend and used from its thread.
class RecordedSteps {
 public:
  /// The context must outlive it.
  explicit RecordedSteps(CudaContext& context) : context_(context) {}
  RecordedSteps(const RecordedSteps&) = delete;
  RecordedSteps& operator=(const RecordedSteps&) = delete;
  ~RecordedSteps() { Clear(); }

  /// How many rows to give a step of num_rows; 0 for more than pays.
  static int64_t RowsToRecord(int64_t num_rows);

  /// Runs or repeats `ops`. Errors are those of `ops`; those of the device are the context's.
  absl::Status Run(int64_t rows, absl::FunctionRef<absl::Status()> ops);

  /// Forgets all: memory that they use has moved.
  void Clear();

 private:
  absl::Status Record(absl::FunctionRef<absl::Status()> ops, cudaGraphExec_t& recording);

  CudaContext& context_;
  std::map<int64_t, cudaGraphExec_t> recordings_;  // null: has run once
};

}  // namespace moed::kernels::cuda
