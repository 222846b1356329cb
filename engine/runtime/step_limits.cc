#include "engine/runtime/step_limits.h"

#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "config/base/status_macros.h"

namespace moed {
namespace {

/// Bounds that keep every size below far from overflow; no real engine comes near them.
constexpr int64_t kMaxTokensPerStep = 1 << 20;
constexpr int64_t kMaxSequencesPerStep = 1 << 16;
constexpr int64_t kMaxBlockSize = 1 << 10;
constexpr int64_t kMaxSlots = std::numeric_limits<int32_t>::max();

absl::Status CheckOption(const char* name, int64_t value, int64_t min, int64_t max) {
  if (value >= min && value <= max) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("engine option ", name, " is ", value, ", expected ", min, " to ", max));
}

absl::Status CheckOptions(const ModelConfig& config, const LocalEngineOptions& options) {
  MOED_RETURN_IF_ERROR(CheckOption("block_size", options.block_size, 1, kMaxBlockSize));
  MOED_RETURN_IF_ERROR(
      CheckOption("num_blocks", options.num_blocks, 1, kMaxSlots / options.block_size));
  MOED_RETURN_IF_ERROR(
      CheckOption("max_tokens_per_step", options.max_tokens_per_step, 1, kMaxTokensPerStep));
  MOED_RETURN_IF_ERROR(CheckOption("max_sequences_per_step", options.max_sequences_per_step, 1,
                                   kMaxSequencesPerStep));
  MOED_RETURN_IF_ERROR(
      CheckOption("max_model_len", options.max_model_len, 0, config.max_positions));
  MOED_RETURN_IF_ERROR(
      CheckOption("num_valid_tokens", options.num_valid_tokens, 0, config.vocab_size));
  if (options.kv_dtype != DType::kBF16 && options.kv_dtype != DType::kF32) {
    return absl::InvalidArgumentError(absl::StrCat("engine option kv_dtype is ",
                                                   std::string(Name(options.kv_dtype)),
                                                   ", expected bf16 or f32"));
  }
  return absl::OkStatus();
}

absl::Status CheckPlacement(const ModelConfig& config, const ExpertPlacement& placement,
                            int32_t rank) {
  MOED_RETURN_IF_ERROR(placement.Validate());
  if (rank < 0 || rank >= placement.num_ranks) {
    return absl::InvalidArgumentError(absl::StrCat(
        "engine rank is ", rank, ", but the expert placement has ", placement.num_ranks, " ranks"));
  }
  if (static_cast<int64_t>(placement.layers.size()) != config.num_moe_layers()) {
    return absl::InvalidArgumentError(absl::StrCat("expert placement has ", placement.layers.size(),
                                                   " layers, but the model has ",
                                                   config.num_moe_layers(), " MoE layers"));
  }
  if (!placement.layers.empty() && placement.num_experts != config.num_experts) {
    return absl::InvalidArgumentError(absl::StrCat("expert placement has ", placement.num_experts,
                                                   " experts, but the model has ",
                                                   config.num_experts));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<StepLimits> ResolveStepLimits(const ModelConfig& config,
                                             const ExpertPlacement& placement, int32_t rank,
                                             const LocalEngineOptions& options) {
  MOED_RETURN_IF_ERROR(CheckOptions(config, options));
  MOED_RETURN_IF_ERROR(CheckPlacement(config, placement, rank));
  const int64_t max_model_len =
      options.max_model_len > 0 ? options.max_model_len : config.max_positions;
  MOED_RETURN_IF_ERROR(CheckOption("max_model_len (from the model)", max_model_len, 1, kMaxSlots));
  const int64_t num_valid_tokens =
      options.num_valid_tokens > 0 ? options.num_valid_tokens : config.vocab_size;
  return StepLimits{.rank = rank,
                    .num_ranks = placement.num_ranks,
                    .placement_epoch = placement.epoch,
                    .vocab_size = static_cast<int32_t>(config.vocab_size),
                    .num_valid_tokens = static_cast<int32_t>(num_valid_tokens),
                    .block_size = options.block_size,
                    .num_blocks = options.num_blocks,
                    .max_model_len = static_cast<int32_t>(max_model_len),
                    .max_tokens_per_step = options.max_tokens_per_step,
                    .max_sequences_per_step = options.max_sequences_per_step};
}

}  // namespace moed
