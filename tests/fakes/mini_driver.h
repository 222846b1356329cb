#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/api/step.h"
#include "engine/runtime/local_engine_group.h"

namespace moed {

/// One sequence for the mini driver.
struct DrivenSequence {
  std::vector<int32_t> prompt;
  int32_t num_new_tokens = 1;
  SamplingParams sampling = {.temperature = 0.0f};
  uint32_t sequence_index = 0;
  int32_t rank = 0;        // the rank that owns the sequence
  int32_t first_step = 0;  // not scheduled before this step of the drive
  int32_t preempt_after =
      -1;  // give up all blocks after so many new tokens, and recompute; -1 = never
  int32_t shares_prefix_with =
      -1;  // reuse the full blocks of the common prompt of an earlier sequence of the
           // same rank, once its prompt is computed; -1 = nobody's
};

/// The simplest scheduler that can drive a group of engines: every sequence takes part in every
/// step, with at most `chunk` tokens of its prompt, as far as the limits of a step allow. Blocks
/// are handed out from a free list and never shared but for shares_prefix_with.
///
/// Returns, for each sequence, the tokens it generated.
absl::StatusOr<std::vector<std::vector<SampledToken>>> Drive(
    LocalEngineGroup& group, const std::vector<DrivenSequence>& sequences, int32_t chunk,
    uint64_t placement_epoch = 0);

}  // namespace moed
