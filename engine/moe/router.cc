#include "engine/moe/router.h"

namespace moed {
namespace {

kernels::RouterScoring Scoring(RouterScoringKind kind) {
  switch (kind) {
    case RouterScoringKind::kSoftmaxThenTopK:
      break;
    case RouterScoringKind::kTopKThenSoftmax:
      return kernels::RouterScoring::kTopKThenSoftmax;
  }
  return kernels::RouterScoring::kSoftmaxThenTopK;
}

}  // namespace

void RouteTokens(const MoeContext& context, const MoeLayerInput& input) {
  const ModelConfig& config = context.config;
  MoeWorkspace& workspace = context.workspace;
  if (input.x.rows == 0) return;
  const kernels::TensorView logits =
      RowsView(workspace.logits, DType::kF32, input.x.rows, config.num_experts);
  context.backend.Linear({.x = input.x, .weights = input.weights->router.get(), .out = logits});
  context.backend.Route({.logits = logits,
                         .top_k = static_cast<int32_t>(config.top_k),
                         .scoring = Scoring(config.router_scoring),
                         .renormalize = config.norm_topk_prob,
                         .topk_ids = workspace.topk_ids.as<int32_t>(),
                         .topk_weights = workspace.topk_weights.as<float>()});
}

}  // namespace moed
