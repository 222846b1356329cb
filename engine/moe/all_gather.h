#pragma once

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "engine/moe/dispatch_plan.h"
#include "engine/moe/moe_layer.h"
#include "engine/moe/moe_workspace.h"

/// A MoE layer of few tokens on several ranks: every rank gets all rows, computes those of its
/// experts, and returns a block of rows to each rank. All sizes follow from the most tokens that a
/// rank has, so that the host is asked for nothing and waits for nothing: two calls of the
/// communicator instead of three and a look at the topk_ids. Every byte that is computed is the
/// same as with DispatchPlan, and so is the sum at home; an expert's first copy computes all its
/// rows. Blocks have room for `block_tokens` tokens of each rank; what a rank has fewer is left
/// over from before, or chose experts 0 to K - 1; it is computed and ignored.
namespace moed {

/// Uploads what the functions below look up for each expert; once, when scratch has been allocated.
void UploadAllGatherArrays(const MoeContext& context, std::span<const ExpertSlots> slots);

/// Fills workspace.input_rows [R * block_tokens, H] and all_topk_ids with those of all ranks.
absl::Status GatherAllRows(const MoeContext& context, const MoeLayerInput& input,
                           int32_t block_tokens);

/// Runs this rank's experts over the gathered rows: choice (token, k) of rank r becomes row
/// (r * block_tokens + token) * K + k of workspace.output_rows.
void RunGatheredExperts(const MoeContext& context, const MoeLayerInput& input,
                        int32_t block_tokens);

/// Returns to every rank its block of those rows, and adds to each own token's hidden state what
/// CombineRows adds.
absl::Status CombineReturnedBlocks(const MoeContext& context, const MoeLayerInput& input,
                                   int32_t block_tokens);

/// Adds the tokens per expert and the rows computed in all layers of a step. Waits for the backend.
void AddGatheredCounts(const MoeContext& context, std::span<const ExpertSlots> slots,
                       StepResult& result);

/// Bytes that a rank sends to others in GatherAllRows and in CombineReturnedBlocks.
int64_t GatherBytes(const MoeContext& context, int64_t row_bytes, int32_t block_tokens);
int64_t ReturnBytes(const MoeContext& context, int64_t row_bytes, int32_t block_tokens);

}  // namespace moed
