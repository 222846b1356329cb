#include "server/scheduler/scheduler_options.h"

#include <algorithm>

#include "absl/strings/str_format.h"

namespace moed {

absl::Status CheckFits(const SchedulerOptions& options, const Request& request) {
  const auto num_prompt = static_cast<int64_t>(request.prompt_token_ids.size());
  if (num_prompt < 1 || num_prompt >= options.max_model_len) {
    return absl::InvalidArgumentError(
        absl::StrFormat("the prompt has %d tokens, expected 1 to %d (the model's context of %d "
                        "less one token to generate)",
                        num_prompt, options.max_model_len - 1, options.max_model_len));
  }
  if (request.num_sequences < 1 || request.stopping.max_tokens < 1) {
    return absl::InvalidArgumentError(
        absl::StrFormat("the request asks for %d sequences of %d tokens, expected at least 1 of 1",
                        request.num_sequences, request.stopping.max_tokens));
  }
  // The last token of a sequence is sampled but never computed: it needs no slot.
  const int64_t num_slots =
      std::min<int64_t>(num_prompt + request.stopping.max_tokens, options.max_model_len) - 1;
  const int64_t num_needed = (num_slots + options.block_size - 1) / options.block_size;
  const int64_t num_blocks = *std::ranges::max_element(options.num_blocks);
  if (num_needed > num_blocks) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "a sequence of %d prompt tokens and max_tokens %d needs %d KV blocks of %d tokens, but a "
        "rank has only %d; lower max_tokens or shorten the prompt",
        num_prompt, request.stopping.max_tokens, num_needed, options.block_size, num_blocks));
  }
  return absl::OkStatus();
}

}  // namespace moed
