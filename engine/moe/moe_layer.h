#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "config/model_config.h"
#include "engine/api/exchange_strategy.h"
#include "engine/api/expert_placement.h"
#include "engine/api/step.h"
#include "engine/comm/communicator.h"
#include "engine/weights/model_weights.h"
#include "kernels/backend.h"

namespace moed {

/// Beyond, all-gather is not considered: it needs room for all ranks' choices.
inline constexpr int32_t kMaxGatherTokens = 64;

struct MoeOptions {
  int32_t max_tokens_per_rank =
      0;  // largest entry of num_tokens_per_rank in any step; sizes all scratch
  ExchangeStrategy exchange = ExchangeStrategy::kAllToAll;

  /// Most tokens of a rank in a layer that may be exchanged by all-gather; 0 = none.
  int32_t max_gather_tokens() const {
    if (exchange == ExchangeStrategy::kAllToAll) return 0;
    return max_tokens_per_rank < kMaxGatherTokens ? max_tokens_per_rank : kMaxGatherTokens;
  }
};

/// One MoE layer of one step on one rank.
struct MoeLayerInput {
  const LayerWeights* weights = nullptr;
  int32_t moe_layer = 0;  // index into ExpertPlacement::layers
  int32_t layer = 0;      // index in the model, for error messages
  uint64_t step_id = 0;
  std::span<const int32_t> num_tokens_per_rank;  // [num_ranks]
  /// [1] in backend memory: own tokens from there on pad a recordable step and are not counted;
  /// null: all are. Only with one rank.
  const int32_t* num_counted_tokens = nullptr;
  kernels::TensorView x;       // [T, H] normed, activation dtype
  kernels::TensorView hidden;  // [T, H] f32 residual stream; the layer's output is added
};

/// The MoE part of a decoder layer: route, dispatch, experts, combine (and the shared expert).
///
/// Owned by the engine of a rank, called from its compute thread. Holds scratch only: what dispatch
/// decides is a value (DispatchPlan) that combine takes.
class MoeLayer {
 public:
  /// Allocates all scratch for `options`, and measures if they say so: then all ranks must call it
  /// at the same time. The references must outlive the object.
  static absl::StatusOr<std::unique_ptr<MoeLayer>> Create(kernels::Backend& backend,
                                                          Communicator& communicator,
                                                          const ModelConfig& config,
                                                          const ExpertPlacement& placement,
                                                          const MoeOptions& options);
  virtual ~MoeLayer() = default;

  /// Adds times, rows, bytes and expert counts to `result`; sizes tokens_per_expert if it is empty.
  /// With one rank the host is asked for nothing and waits for nothing, so that the call can be
  /// recorded; rows and expert counts come with FinishStep. So it is with all-gather.
  /// dispatch_bytes are the rows (each token at most once per other rank) and the topk_ids that
  /// this rank sends to others, combine_bytes the rows it returns to them. INVALID_ARGUMENT for an
  /// input that does not fit, before anything is sent; INTERNAL for impossible topk_ids where rows
  /// are sent one by one (gathered ids are those of Route, and nobody looks); else the
  /// communicator's errors.
  virtual absl::Status Forward(const MoeLayerInput& input, StepResult& result) = 0;

  /// After all layers of a step of num_tokens own tokens, without padding: adds to `result` what
  /// Forward left in the backend. Waits for the backend.
  virtual void FinishStep(int64_t num_tokens, StepResult& result) = 0;

  /// Scratch held, in bytes: MoeWorkspaceBytes of the same arguments.
  virtual int64_t workspace_bytes() const = 0;
};

/// Bytes of scratch that MoeLayer::Create would allocate, computed without allocating (for `moed
/// --check`). INVALID_ARGUMENT when placement and model do not fit each other or a size does not
/// fit.
absl::StatusOr<int64_t> MoeWorkspaceBytes(const ModelConfig& config,
                                          const ExpertPlacement& placement, int32_t rank,
                                          const MoeOptions& options, DType activation);

}  // namespace moed
