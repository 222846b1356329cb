#include "server/memory_plan.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_format.h"
#include "config/base/status_macros.h"

namespace moed {
namespace {

constexpr int64_t kMaxBlocks = 1 << 26;

int64_t BlocksFor(int64_t num_tokens, int32_t block_size) {
  return (num_tokens + block_size - 1) / block_size;
}

int64_t FixedBytes(const EngineMemory& rank) {
  return rank.weight_bytes + rank.exchange_bytes + rank.workspace_bytes;
}

// What all ranks need before the first KV block.
int64_t FixedBytes(const MemoryPlanInputs& inputs) {
  int64_t sum = 0;
  for (const EngineMemory& rank : inputs.ranks) sum += FixedBytes(rank);
  return sum;
}

// One block on every rank.
int64_t BytesPerBlock(const MemoryPlanInputs& inputs) {
  int64_t sum = 0;
  for (const EngineMemory& rank : inputs.ranks) sum += rank.kv_bytes_per_block;
  return std::max<int64_t>(sum, 1);
}

absl::Status TooLittle(const MemoryPlanInputs& inputs, int64_t num_blocks, const char* advice) {
  const int64_t needed = FixedBytes(inputs) + num_blocks * BytesPerBlock(inputs);
  const int64_t usable = inputs.available_bytes - inputs.reserved_bytes;
  return absl::ResourceExhaustedError(absl::StrFormat(
      "too little memory: weights, exchange and workspace of %d ranks need %s and %d KV blocks on "
      "each %s; %s are available, %s of them reserved: %s are missing. %s",
      inputs.ranks.size(), FormatBytes(FixedBytes(inputs)), num_blocks,
      FormatBytes(num_blocks * BytesPerBlock(inputs)), FormatBytes(inputs.available_bytes),
      FormatBytes(inputs.reserved_bytes), FormatBytes(needed - usable), advice));
}

// What memory allows on each rank; may be negative.
int64_t BlocksThatFit(const MemoryPlanInputs& inputs) {
  const int64_t left = inputs.available_bytes - inputs.reserved_bytes - FixedBytes(inputs);
  return left < 0 ? -1 : std::min(left / BytesPerBlock(inputs), kMaxBlocks);
}

// A length that was not asked for is cut to what the blocks hold.
absl::StatusOr<int32_t> MaxModelLen(const MemoryPlanInputs& inputs, int64_t num_blocks) {
  const int64_t room = num_blocks * inputs.block_size;
  if (inputs.max_model_len == 0) {
    return static_cast<int32_t>(std::min<int64_t>(inputs.model_max_len, room));
  }
  if (inputs.max_model_len <= room) return inputs.max_model_len;
  return absl::InvalidArgumentError(
      absl::StrFormat("max_model_len %d needs %d KV blocks of %d tokens, but num_blocks is %d",
                      inputs.max_model_len, BlocksFor(inputs.max_model_len, inputs.block_size),
                      inputs.block_size, num_blocks));
}

absl::StatusOr<int64_t> NumBlocks(const MemoryPlanInputs& inputs) {
  const int64_t fit = BlocksThatFit(inputs);
  if (inputs.num_blocks > 0) {
    if (inputs.num_blocks <= fit) return inputs.num_blocks;
    return TooLittle(inputs, inputs.num_blocks, "Lower num_blocks, or leave it out.");
  }
  const int64_t wanted_len = inputs.max_model_len > 0 ? inputs.max_model_len : inputs.model_max_len;
  const int64_t one_sequence = BlocksFor(wanted_len, inputs.block_size);
  const int64_t least = inputs.max_model_len > 0 ? one_sequence : 1;
  if (fit < least) {
    return TooLittle(inputs, least, "Lower max_model_len or max_tokens_per_step.");
  }
  const int64_t usable = 2 * one_sequence * inputs.max_sequences_per_step;
  return std::min({fit, std::max(usable, one_sequence), kMaxBlocks});
}

}  // namespace

int64_t MemoryPlan::rank_bytes(size_t rank) const {
  return FixedBytes(ranks[rank]) + kv_bytes(rank);
}

int64_t MemoryPlan::total_bytes() const {
  int64_t sum = 0;
  for (size_t rank = 0; rank < ranks.size(); ++rank) sum += rank_bytes(rank);
  return sum;
}

int32_t MemoryPlan::num_full_sequences() const {
  const int64_t room = int64_t{num_blocks} * block_size;
  return static_cast<int32_t>(std::max<int64_t>(room / max_model_len, 1));
}

absl::StatusOr<MemoryPlan> MakeMemoryPlan(const MemoryPlanInputs& inputs) {
  MOED_ASSIGN_OR_RETURN(const int64_t num_blocks, NumBlocks(inputs));
  MOED_ASSIGN_OR_RETURN(const int32_t max_model_len, MaxModelLen(inputs, num_blocks));
  return MemoryPlan{.ranks = inputs.ranks,
                    .num_blocks = static_cast<int32_t>(num_blocks),
                    .block_size = inputs.block_size,
                    .max_model_len = max_model_len,
                    .available_bytes = inputs.available_bytes,
                    .reserved_bytes = inputs.reserved_bytes};
}

std::string FormatBytes(int64_t num_bytes) {
  const double value = static_cast<double>(num_bytes);
  if (num_bytes >= int64_t{1} << 30) return absl::StrFormat("%.2f GiB", value / (1 << 30));
  if (num_bytes >= int64_t{1} << 20) return absl::StrFormat("%.1f MiB", value / (1 << 20));
  return absl::StrFormat("%.1f KiB", value / (1 << 10));
}

}  // namespace moed
