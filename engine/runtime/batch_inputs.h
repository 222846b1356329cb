#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/api/step.h"
#include "engine/model/model_batch.h"
#include "engine/runtime/step_limits.h"
#include "kernels/backend.h"

namespace moed {

/// Turns a valid StepPlan into the index arrays of a forward pass, in memory that is allocated
/// once.
///
/// Owned by the engine of a rank, used from its compute thread. The backend must outlive it.
class BatchInputs {
 public:
  static absl::StatusOr<BatchInputs> Create(kernels::Backend& backend, const StepLimits& limits);

  /// Bytes of backend memory that an engine with these limits needs.
  static int64_t DeviceBytes(const StepLimits& limits);

  /// The plan's rows. With one rank, a plan of nothing but sampled single tokens becomes a
  /// recordable step, filled up with copies of the slice that has the fewest keys. Views into this
  /// object and into `plan`, valid until the next call. The plan must have passed ValidateStepPlan.
  ModelBatch Fill(const StepPlan& plan);

  int64_t size_bytes() const { return device_.size_bytes(); }

 private:
  BatchInputs(kernels::Backend& backend, const StepLimits& limits);

  void AppendSlice(const Slice& slice);
  int64_t RowsToRecord(const StepPlan& plan) const;
  void Upload();

  kernels::Backend* backend_;  // a pointer, so that the object can move
  StepLimits limits_;
  // token_ids, positions, slots, sampled_rows, num_own_tokens, one after the other
  kernels::Buffer device_;
  int32_t num_own_tokens_ = 0;
  std::vector<int32_t> num_tokens_per_rank_;  // [num_ranks]
  std::vector<int32_t> token_ids_;            // [T]
  std::vector<int32_t> positions_;            // [T]
  std::vector<int32_t> slots_;                // [T]
  std::vector<int32_t> sampled_rows_;         // [S]
  std::vector<int32_t> row_begin_;            // [num_slices + 1]
  std::vector<int32_t> start_positions_;      // [num_slices]
  std::vector<int32_t> block_tables_;         // concatenated
  std::vector<int32_t> block_begin_;          // [num_slices + 1]
};

}  // namespace moed
