#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/api/step.h"
#include "kernels/backend.h"

namespace moed {

/// Turns the sample requests of a step into one call of the backend and its answer into results.
///
/// Owned by the engine of a rank, called from its compute thread. Keeps no state between steps but
/// the capacity of its arrays: the RNG is a function of (seed, sequence_index, position) alone. The
/// backend must outlive it.
class Sampler {
 public:
  /// Ids from `num_valid_tokens` on have no token and are never chosen.
  Sampler(kernels::Backend& backend, int32_t num_valid_tokens)
      : backend_(backend), num_valid_tokens_(num_valid_tokens) {}

  /// `logits` [S, V] f32 holds one row for each slice that asks for a token, in slice order, and is
  /// clobbered. Returns S tokens in that order.
  std::vector<SampledToken> Sample(kernels::TensorView logits, std::span<const Slice> slices);

 private:
  void AppendRow(const SampleRequest& request);

  kernels::Backend& backend_;
  const int32_t num_valid_tokens_;
  std::vector<kernels::SampleRow> rows_;        // [S]
  std::vector<kernels::SampleOutput> outputs_;  // [S]
  std::vector<int32_t> counted_token_ids_;      // of all rows, one after the other
  std::vector<int32_t> output_counts_;
};

}  // namespace moed
