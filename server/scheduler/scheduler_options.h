#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "server/request/request.h"

namespace moed {

struct SchedulerOptions {
  std::vector<int32_t> num_blocks;  // [num_ranks] KV blocks of each rank
  int32_t block_size = 16;
  int32_t max_model_len = 0;           // tokens of a sequence, prompt included
  int32_t max_tokens_per_step = 0;     // of one rank
  int32_t max_sequences_per_step = 0;  // of one rank; also bounds its running sequences
  int32_t vocab_size = 0;
  std::vector<int32_t> eos_token_ids;
  std::vector<int32_t> hole_token_ids;  // ids without a token: never sampled
  bool prefix_caching = true;
  uint64_t placement_epoch = 0;
};

/// OK, or INVALID_ARGUMENT saying why a request can never run under `options`: it is longer than
/// the model's context or than any rank's KV memory.
absl::Status CheckFits(const SchedulerOptions& options, const Request& request);

}  // namespace moed
