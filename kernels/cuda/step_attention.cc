#include "kernels/cuda/step_attention.h"

#include <algorithm>
#include <span>
#include <vector>

namespace moed::kernels::cuda {
namespace {

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <typename T>
int64_t Bytes(const T& values) {
  return static_cast<int64_t>(values.size() * sizeof(values[0]));
}

/// The grids of a decode step that may be recorded must serve contexts of every length; a grid is
/// cut to what the device runs at once, so that it may be too large.
AttentionCounts MostTasks(const AttentionPlan& plan, const StepParams& step) {
  const AttentionBatch& batch = *step.attention;
  const auto num_slices = static_cast<int64_t>(batch.start_position.size());
  const bool is_decode = batch.row_begin[num_slices] == num_slices;
  if (step.recording_id == 0 || !is_decode) return plan.counts();
  const int64_t group = step.num_heads / step.num_kv_heads;
  if (group > kVectorsPerWarp) {
    const int64_t vectors = kWarpsOfManyVectors * kVectorsPerWarp;
    return {.many = static_cast<int32_t>(num_slices * CeilDiv(group, vectors))};
  }
  return {.few = INT32_MAX, .merge = static_cast<int32_t>(num_slices)};
}

}  // namespace

GrowingMemory::~GrowingMemory() { cudaFree(data_); }

bool GrowingMemory::Reserve(int64_t bytes) {
  constexpr int64_t kSmallest = 64 << 10;
  if (bytes <= bytes_ || !context_.Synchronize().ok()) return false;
  cudaFree(data_);
  data_ = nullptr;
  bytes_ = 0;
  const int64_t size = std::max(kSmallest, 2 * bytes);
  context_.Keep(cudaMalloc(&data_, static_cast<size_t>(size)), "allocating memory for attention");
  if (!context_.failed()) bytes_ = size;
  return true;
}

StepAttention::StepAttention(CudaContext& context)
    : context_(context),
      counts_(context),
      block_tables_(context),
      few_(context),
      many_(context),
      merge_(context),
      partials_(context) {}

bool StepAttention::Begin(const StepParams& step) {
  const AttentionPlan plan = PlanAttention(*step.attention, step.num_heads, step.num_kv_heads,
                                           context_.Begin().num_multiprocessors);
  const bool moved = Reserve(plan, step);
  Upload(plan, step);
  batch_ = step.attention;
  return moved;
}

bool StepAttention::Reserve(const AttentionPlan& plan, const StepParams& step) {
  const int64_t vector_bytes = int64_t{step.head_dim + 2} * int64_t{sizeof(float)};
  const int64_t partial_bytes = step.num_kv_heads * kVectorsPerWarp * vector_bytes;
  bool moved = counts_.Reserve(sizeof(AttentionCounts));
  moved |= block_tables_.Reserve(static_cast<int64_t>(step.attention->block_tables.size_bytes()));
  moved |= few_.Reserve(Bytes(plan.few));
  moved |= many_.Reserve(Bytes(plan.many));
  moved |= merge_.Reserve(Bytes(plan.merge));
  // A plan has fewer than this before contexts become long.
  const int64_t soon =
      CeilDiv(kBlocksPerMultiprocessor * context_.Begin().num_multiprocessors, step.num_kv_heads);
  moved |= partials_.Reserve(std::max<int64_t>(soon, plan.num_partials) * partial_bytes);
  return moved;
}

void StepAttention::Upload(const AttentionPlan& plan, const StepParams& step) {
  const AttentionCounts counts = plan.counts();
  const std::span<const int32_t> tables = step.attention->block_tables;
  context_.CopyToDevice(counts_.as<void>(), &counts, sizeof(counts));
  context_.CopyToDevice(block_tables_.as<void>(), tables.data(), tables.size_bytes());
  context_.CopyToDevice(few_.as<void>(), plan.few.data(), Bytes(plan.few));
  context_.CopyToDevice(many_.as<void>(), plan.many.data(), Bytes(plan.many));
  context_.CopyToDevice(merge_.as<void>(), plan.merge.data(), Bytes(plan.merge));
  arrays_ = {.counts = counts_.as<AttentionCounts>(),
             .most = MostTasks(plan, step),
             .block_tables = block_tables_.as<int32_t>(),
             .few = few_.as<AttentionTask>(),
             .many = many_.as<AttentionTask>(),
             .merge = merge_.as<MergeTask>(),
             .partials = partials_.as<float>()};
}

}  // namespace moed::kernels::cuda
