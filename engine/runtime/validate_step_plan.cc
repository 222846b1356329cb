#include <cmath>
#include <span>
#include <unordered_set>
#include <vector>

#include "absl/strings/str_cat.h"
#include "config/base/status_macros.h"
#include "engine/runtime/step_limits.h"

namespace moed {
namespace {

/// Names the slice in every message about it.
class SliceErrors {
 public:
  SliceErrors(const StepPlan& plan, size_t index) : plan_(plan), index_(index) {}

  template <typename... Parts>
  absl::Status Invalid(const Parts&... parts) const {
    return absl::InvalidArgumentError(absl::StrCat("step ", plan_.step_id, ", slice ", index_,
                                                   " (sequence ", plan_.slices[index_].sequence_id,
                                                   "): ", parts...));
  }

 private:
  const StepPlan& plan_;
  const size_t index_;
};

absl::Status CheckIdsInRange(std::span<const int32_t> ids, const char* field, int32_t end,
                             const SliceErrors& errors) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= end) {
      return errors.Invalid(field, "[", i, "] is ", ids[i], ", expected 0 to ", end - 1);
    }
  }
  return absl::OkStatus();
}

absl::Status CheckSliceShape(const Slice& slice, const StepLimits& limits,
                             const SliceErrors& errors) {
  const int64_t num_new = static_cast<int64_t>(slice.token_ids.size());
  if (num_new < 1) return errors.Invalid("token_ids is empty, expected at least one");
  if (slice.start_position < 0) {
    return errors.Invalid("start_position is ", slice.start_position, ", expected 0 or more");
  }
  const int64_t end = slice.start_position + num_new;
  if (end > limits.max_model_len) {
    return errors.Invalid("start_position ", slice.start_position, " + ", num_new,
                          " new tokens exceed max_model_len ", limits.max_model_len);
  }
  const int64_t num_blocks = static_cast<int64_t>(slice.block_table.size());
  if (num_blocks * limits.block_size < end) {
    return errors.Invalid("block_table has ", num_blocks, " blocks of ", limits.block_size,
                          " tokens, which do not cover ", end, " positions");
  }
  if (num_blocks > limits.max_blocks_per_sequence()) {
    return errors.Invalid("block_table has ", num_blocks, " blocks, expected at most ",
                          limits.max_blocks_per_sequence());
  }
  return absl::OkStatus();
}

/// Two slices, or one slice twice, must not write to the same block: the rows of a step are
/// computed in any order.
absl::Status CheckWrittenBlocks(const Slice& slice, const StepLimits& limits,
                                const SliceErrors& errors,
                                std::unordered_set<int32_t>& written_blocks) {
  const int64_t last = slice.start_position + static_cast<int64_t>(slice.token_ids.size()) - 1;
  for (int64_t i = slice.start_position / limits.block_size; i <= last / limits.block_size; ++i) {
    if (!written_blocks.insert(slice.block_table[i]).second) {
      return errors.Invalid("block_table[", i, "] is block ", slice.block_table[i],
                            ", which this step writes to already");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckChoice(const SamplingParams& params, const StepLimits& limits,
                         const SliceErrors& errors) {
  if (!(params.temperature >= 0.0f) || std::isinf(params.temperature)) {
    return errors.Invalid("temperature is ", params.temperature, ", expected 0 or more");
  }
  if (params.top_k < 0) return errors.Invalid("top_k is ", params.top_k, ", expected 0 or more");
  if (!(params.top_p > 0.0f && params.top_p <= 1.0f)) {
    return errors.Invalid("top_p is ", params.top_p, ", expected more than 0, at most 1");
  }
  if (!(params.min_p >= 0.0f && params.min_p < 1.0f)) {
    return errors.Invalid("min_p is ", params.min_p, ", expected 0 or more, less than 1");
  }
  if (params.num_top_logprobs < -1 || params.num_top_logprobs > limits.vocab_size) {
    return errors.Invalid("num_top_logprobs is ", params.num_top_logprobs, ", expected -1 to ",
                          limits.vocab_size);
  }
  return absl::OkStatus();
}

absl::Status CheckPenalties(const SamplingParams& params, const SliceErrors& errors) {
  if (!std::isfinite(params.presence_penalty)) {
    return errors.Invalid("presence_penalty is ", params.presence_penalty, ", expected a number");
  }
  if (!std::isfinite(params.frequency_penalty)) {
    return errors.Invalid("frequency_penalty is ", params.frequency_penalty, ", expected a number");
  }
  if (!(params.repetition_penalty > 0.0f) || std::isinf(params.repetition_penalty)) {
    return errors.Invalid("repetition_penalty is ", params.repetition_penalty,
                          ", expected more than 0");
  }
  return absl::OkStatus();
}

/// At least one token must be left to choose.
absl::Status CheckChoiceRemains(const SampleRequest& request, const StepLimits& limits,
                                const SliceErrors& errors) {
  const std::unordered_set<int32_t> banned(request.banned_token_ids.begin(),
                                           request.banned_token_ids.end());
  if (request.params.allowed_token_ids.empty()) {
    if (static_cast<int32_t>(banned.size()) < limits.num_valid_tokens) return absl::OkStatus();
  } else {
    for (int32_t id : request.params.allowed_token_ids) {
      if (!banned.contains(id)) return absl::OkStatus();
    }
  }
  return errors.Invalid("banned_token_ids leaves no token to choose");
}

absl::Status CheckTokenLists(const SampleRequest& request, const StepLimits& limits,
                             const SliceErrors& errors) {
  const SamplingParams& params = request.params;
  MOED_RETURN_IF_ERROR(CheckIdsInRange(params.allowed_token_ids, "allowed_token_ids",
                                       limits.num_valid_tokens, errors));
  MOED_RETURN_IF_ERROR(CheckIdsInRange(request.banned_token_ids, "banned_token_ids",
                                       limits.num_valid_tokens, errors));
  for (const auto& [token_id, bias] : params.logit_bias) {
    if (token_id < 0 || token_id >= limits.num_valid_tokens || !std::isfinite(bias)) {
      return errors.Invalid("logit_bias adds ", bias, " to token ", token_id,
                            ", expected a number and an id from 0 to ",
                            limits.num_valid_tokens - 1);
    }
  }
  for (const TokenCount& count : request.token_counts) {
    if (count.token_id < 0 || count.token_id >= limits.vocab_size || count.num_in_prompt < 0 ||
        count.num_in_output < 0) {
      return errors.Invalid("token_counts has token ", count.token_id, " ", count.num_in_prompt,
                            " + ", count.num_in_output, " times, expected an id from 0 to ",
                            limits.vocab_size - 1, " and no negative count");
    }
  }
  return CheckChoiceRemains(request, limits, errors);
}

absl::Status CheckSampleRequest(const Slice& slice, const StepLimits& limits,
                                const SliceErrors& errors) {
  if (!slice.sample) return absl::OkStatus();
  const int64_t end = slice.start_position + static_cast<int64_t>(slice.token_ids.size());
  if (slice.sample->position != end) {
    return errors.Invalid("sample.position is ", slice.sample->position, ", expected ", end,
                          ", the position after the slice");
  }
  MOED_RETURN_IF_ERROR(CheckChoice(slice.sample->params, limits, errors));
  MOED_RETURN_IF_ERROR(CheckPenalties(slice.sample->params, errors));
  return CheckTokenLists(*slice.sample, limits, errors);
}

absl::Status CheckRanks(const StepPlan& plan, const StepLimits& limits) {
  const auto invalid = [&](const auto&... parts) {
    return absl::InvalidArgumentError(absl::StrCat("step ", plan.step_id, ": ", parts...));
  };
  if (plan.placement_epoch != limits.placement_epoch) {
    return invalid("placement_epoch is ", plan.placement_epoch, ", but this engine holds epoch ",
                   limits.placement_epoch);
  }
  if (static_cast<int64_t>(plan.num_tokens_per_rank.size()) != limits.num_ranks) {
    return invalid("num_tokens_per_rank has ", plan.num_tokens_per_rank.size(),
                   " entries, expected one for each of ", limits.num_ranks, " ranks");
  }
  for (int32_t rank = 0; rank < limits.num_ranks; ++rank) {
    const int32_t num_tokens = plan.num_tokens_per_rank[rank];
    if (num_tokens < 0 || num_tokens > limits.max_tokens_per_step) {
      return invalid("num_tokens_per_rank[", rank, "] is ", num_tokens,
                     ", expected 0 to max_tokens_per_step ", limits.max_tokens_per_step);
    }
  }
  if (static_cast<int64_t>(plan.slices.size()) > limits.max_sequences_per_step) {
    return invalid("slices has ", plan.slices.size(), " entries, expected at most ",
                   limits.max_sequences_per_step);
  }
  int64_t total = 0;
  for (const Slice& slice : plan.slices) total += static_cast<int64_t>(slice.token_ids.size());
  if (total != plan.num_tokens_per_rank[limits.rank]) {
    return invalid("num_tokens_per_rank[", limits.rank, "] is ",
                   plan.num_tokens_per_rank[limits.rank], ", but the slices have ", total,
                   " tokens");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ValidateStepPlan(const StepPlan& plan, const StepLimits& limits) {
  MOED_RETURN_IF_ERROR(CheckRanks(plan, limits));
  std::unordered_set<int32_t> written_blocks;
  for (size_t i = 0; i < plan.slices.size(); ++i) {
    const Slice& slice = plan.slices[i];
    const SliceErrors errors(plan, i);
    MOED_RETURN_IF_ERROR(CheckSliceShape(slice, limits, errors));
    MOED_RETURN_IF_ERROR(CheckIdsInRange(slice.token_ids, "token_ids", limits.vocab_size, errors));
    MOED_RETURN_IF_ERROR(
        CheckIdsInRange(slice.block_table, "block_table", limits.num_blocks, errors));
    MOED_RETURN_IF_ERROR(CheckWrittenBlocks(slice, limits, errors, written_blocks));
    MOED_RETURN_IF_ERROR(CheckSampleRequest(slice, limits, errors));
  }
  return absl::OkStatus();
}

}  // namespace moed
