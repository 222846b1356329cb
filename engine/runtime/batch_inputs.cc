#include "engine/runtime/batch_inputs.h"

#include <algorithm>

#include "config/base/status_macros.h"

namespace moed {

BatchInputs::BatchInputs(kernels::Backend& backend, const StepLimits& limits)
    : backend_(&backend), limits_(limits) {
  token_ids_.reserve(limits.max_tokens_per_step);
  positions_.reserve(limits.max_tokens_per_step);
  slots_.reserve(limits.max_tokens_per_step);
  sampled_rows_.reserve(limits.max_sequences_per_step);
  row_begin_.reserve(limits.max_sequences_per_step + 1);
  start_positions_.reserve(limits.max_sequences_per_step);
  block_begin_.reserve(limits.max_sequences_per_step + 1);
}

absl::StatusOr<BatchInputs> BatchInputs::Create(kernels::Backend& backend,
                                                const StepLimits& limits) {
  BatchInputs inputs(backend, limits);
  MOED_ASSIGN_OR_RETURN(inputs.device_, backend.Allocate(DeviceBytes(limits)));
  return inputs;
}

int64_t BatchInputs::DeviceBytes(const StepLimits& limits) {
  return static_cast<int64_t>(sizeof(int32_t)) *
         (int64_t{3} * limits.max_tokens_per_step + limits.max_sequences_per_step + 1);
}

ModelBatch BatchInputs::Fill(const StepPlan& plan) {
  for (std::vector<int32_t>* array :
       {&token_ids_, &positions_, &slots_, &sampled_rows_, &start_positions_, &block_tables_}) {
    array->clear();
  }
  row_begin_.assign(1, 0);
  block_begin_.assign(1, 0);
  for (const Slice& slice : plan.slices) AppendSlice(slice);
  num_own_tokens_ = static_cast<int32_t>(token_ids_.size());
  num_tokens_per_rank_ = plan.num_tokens_per_rank;
  const int64_t rows_to_record = RowsToRecord(plan);
  if (rows_to_record > 0) {
    const Slice& shortest = *std::min_element(
        plan.slices.begin(), plan.slices.end(),
        [](const Slice& a, const Slice& b) { return a.start_position < b.start_position; });
    while (static_cast<int64_t>(token_ids_.size()) < rows_to_record) AppendSlice(shortest);
    num_tokens_per_rank_ = {static_cast<int32_t>(rows_to_record)};
  }
  Upload();

  const int32_t* device = device_.as<int32_t>();
  const int64_t max_tokens = limits_.max_tokens_per_step;
  return {.step_id = plan.step_id,
          .num_tokens_per_rank = num_tokens_per_rank_,
          .num_tokens = static_cast<int64_t>(token_ids_.size()),
          .num_own_tokens = num_own_tokens_,
          .num_counted_tokens = device + 3 * max_tokens + limits_.max_sequences_per_step,
          .is_recordable = rows_to_record > 0,
          .token_ids = device,
          .positions = device + max_tokens,
          .slots = device + 2 * max_tokens,
          .attention = {.row_begin = row_begin_,
                        .start_position = start_positions_,
                        .block_tables = block_tables_,
                        .block_begin = block_begin_},
          .num_sampled = static_cast<int64_t>(sampled_rows_.size()),
          .sampled_rows = device + 3 * max_tokens};
}

/// 0 for a plan that is not worth recording.
int64_t BatchInputs::RowsToRecord(const StepPlan& plan) const {
  if (limits_.num_ranks > 1 || plan.slices.empty()) return 0;
  for (const Slice& slice : plan.slices) {
    if (slice.token_ids.size() != 1 || !slice.sample) return 0;
  }
  return std::min<int64_t>({backend_->RowsToRecord(static_cast<int64_t>(plan.slices.size())),
                            limits_.max_tokens_per_step, limits_.max_sequences_per_step});
}

void BatchInputs::AppendSlice(const Slice& slice) {
  const int32_t num_new = static_cast<int32_t>(slice.token_ids.size());
  token_ids_.insert(token_ids_.end(), slice.token_ids.begin(), slice.token_ids.end());
  for (int32_t position = slice.start_position; position < slice.start_position + num_new;
       ++position) {
    positions_.push_back(position);
    slots_.push_back(slice.block_table[position / limits_.block_size] * limits_.block_size +
                     position % limits_.block_size);
  }
  row_begin_.push_back(row_begin_.back() + num_new);
  start_positions_.push_back(slice.start_position);
  block_tables_.insert(block_tables_.end(), slice.block_table.begin(), slice.block_table.end());
  block_begin_.push_back(static_cast<int32_t>(block_tables_.size()));
  if (slice.sample) sampled_rows_.push_back(row_begin_.back() - 1);
}

void BatchInputs::Upload() {
  int32_t* device = device_.as<int32_t>();
  for (const std::vector<int32_t>* array : {&token_ids_, &positions_, &slots_}) {
    if (!array->empty()) {
      backend_->CopyToDevice(device, array->data(), array->size() * sizeof(int32_t));
    }
    device += limits_.max_tokens_per_step;
  }
  if (!sampled_rows_.empty()) {
    backend_->CopyToDevice(device, sampled_rows_.data(), sampled_rows_.size() * sizeof(int32_t));
  }
  backend_->CopyToDevice(device + limits_.max_sequences_per_step, &num_own_tokens_,
                         sizeof(num_own_tokens_));
}

}  // namespace moed
