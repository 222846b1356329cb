#include "engine/runtime/batch_inputs.h"

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
         (int64_t{3} * limits.max_tokens_per_step + limits.max_sequences_per_step);
}

ModelBatch BatchInputs::Fill(const StepPlan& plan) {
  for (std::vector<int32_t>* array :
       {&token_ids_, &positions_, &slots_, &sampled_rows_, &start_positions_, &block_tables_}) {
    array->clear();
  }
  row_begin_.assign(1, 0);
  block_begin_.assign(1, 0);
  for (const Slice& slice : plan.slices) AppendSlice(slice);
  Upload();

  const int32_t* device = device_.as<int32_t>();
  const int64_t max_tokens = limits_.max_tokens_per_step;
  return {.step_id = plan.step_id,
          .num_tokens_per_rank = plan.num_tokens_per_rank,
          .num_tokens = static_cast<int64_t>(token_ids_.size()),
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
}

}  // namespace moed
