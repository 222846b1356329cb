#include "engine/moe/moe_layer.h"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "config/base/status_macros.h"
#include "engine/moe/all_gather.h"
#include "engine/moe/combine.h"
#include "engine/moe/crossover.h"
#include "engine/moe/dispatch.h"
#include "engine/moe/dispatch_plan.h"
#include "engine/moe/expert_load.h"
#include "engine/moe/experts.h"
#include "engine/moe/moe_workspace.h"
#include "engine/moe/router.h"
#include "engine/moe/single_rank.h"

namespace moed {
namespace {

/// Splits the time of a layer into stages. Lives during one Forward.
class StageClock {
 public:
  explicit StageClock(const Communicator& communicator)
      : communicator_(communicator),
        last_(std::chrono::steady_clock::now()),
        last_wait_(communicator.wait_seconds()) {}

  /// Adds the seconds since the last stage ended to `seconds`.
  void EndStage(double& seconds) {
    const auto now = std::chrono::steady_clock::now();
    seconds += std::chrono::duration<double>(now - last_).count();
    last_ = now;
  }

  /// Also adds those of them spent waiting for other ranks to `wait_seconds`.
  void EndStage(double& seconds, double& wait_seconds) {
    EndStage(seconds);
    wait_seconds += communicator_.wait_seconds() - last_wait_;
    last_wait_ = communicator_.wait_seconds();
  }

 private:
  const Communicator& communicator_;
  std::chrono::steady_clock::time_point last_;
  double last_wait_;
};

class MoeLayerImpl final : public MoeLayer {
 public:
  struct Parts {
    kernels::Backend& backend;
    Communicator& communicator;
    const ModelConfig& config;
    MoeOptions options;
    std::vector<ExpertSlots> slots;  // [num_moe_layers]
    MoeWorkspace workspace;
    int64_t workspace_bytes;
  };

  explicit MoeLayerImpl(Parts parts)
      : options_(parts.options),
        slots_(std::move(parts.slots)),
        workspace_(std::move(parts.workspace)),
        workspace_bytes_(parts.workspace_bytes),
        context_{.config = parts.config,
                 .backend = parts.backend,
                 .communicator = parts.communicator,
                 .workspace = workspace_} {
    if (context_.communicator.num_ranks() == 1) UploadSingleRankArrays(context_, slots_);
    if (gathers_) UploadAllGatherArrays(context_, slots_);
  }

  /// Decides up to how many tokens per rank to gather.
  absl::Status ChooseCrossover() {
    if (!gathers_) return absl::OkStatus();
    crossover_ = options_.max_gather_tokens();
    if (options_.exchange != ExchangeStrategy::kMeasured) return absl::OkStatus();
    MOED_ASSIGN_OR_RETURN(crossover_, MeasureCrossover(context_, crossover_));
    return absl::OkStatus();
  }

  absl::Status Forward(const MoeLayerInput& input, StepResult& result) override {
    MOED_RETURN_IF_ERROR(CheckInput(input));
    StageClock clock(context_.communicator);
    StepTimes& times = result.times;

    RouteTokens(context_, input);
    clock.EndStage(times.route);
    if (context_.communicator.num_ranks() == 1) {
      RunAllExperts(context_, input);
      AddSharedExpert(context_, input);
      clock.EndStage(times.experts);
      return absl::OkStatus();
    }

    if (const int32_t block_tokens = BlockTokens(input.num_tokens_per_rank); block_tokens > 0) {
      return ForwardGathered(input, block_tokens, clock, result);
    }

    MOED_ASSIGN_OR_RETURN(const DispatchPlan plan, Plan(input, result));
    MOED_ASSIGN_OR_RETURN(const kernels::TensorView rows, DispatchRows(context_, input, plan));
    clock.EndStage(times.dispatch, times.dispatch_wait);

    RunExperts(context_, input, plan, rows);
    clock.EndStage(times.experts);

    MOED_RETURN_IF_ERROR(CombineRows(context_, input, plan));
    clock.EndStage(times.combine, times.combine_wait);

    AddSharedExpert(context_, input);
    clock.EndStage(times.experts);
    CountTraffic(input, plan, result);
    return absl::OkStatus();
  }

  void FinishStep(int64_t num_tokens, StepResult& result) override {
    if (std::exchange(has_gathered_, false)) AddGatheredCounts(context_, slots_, result);
    if (context_.communicator.num_ranks() > 1) return;
    const ModelConfig& config = context_.config;
    const int64_t num_layers = static_cast<int64_t>(slots_.size());
    result.tokens_per_expert.resize(num_layers * config.num_experts);
    if (num_tokens == 0) return;
    result.num_expert_rows += num_layers * num_tokens * config.top_k;
    AddTokensPerExpert(context_, result);
  }

  int64_t workspace_bytes() const override { return workspace_bytes_; }

 private:
  absl::Status CheckInput(const MoeLayerInput& input) const;
  int32_t BlockTokens(std::span<const int32_t> num_tokens_per_rank) const;
  absl::Status ForwardGathered(const MoeLayerInput& input, int32_t block_tokens, StageClock& clock,
                               StepResult& result);
  absl::StatusOr<DispatchPlan> Plan(const MoeLayerInput& input, StepResult& result);
  void CountTraffic(const MoeLayerInput& input, const DispatchPlan& plan, StepResult& result) const;

  const MoeOptions options_;
  const std::vector<ExpertSlots> slots_;
  MoeWorkspace workspace_;
  const int64_t workspace_bytes_;
  const MoeContext context_;
  const bool gathers_ = context_.communicator.num_ranks() > 1 && options_.max_gather_tokens() > 0 &&
                        !slots_.empty();
  int32_t crossover_ = 0;      // most tokens of a rank at which all rows are gathered
  bool has_gathered_ = false;  // the step under way left its counts in the backend
};

/// Tokens of each block of an all-gather; 0 where the rows are sent one by one.
int32_t MoeLayerImpl::BlockTokens(std::span<const int32_t> num_tokens_per_rank) const {
  if (!gathers_) return 0;
  const int32_t most = *std::max_element(num_tokens_per_rank.begin(), num_tokens_per_rank.end());
  return most <= crossover_ ? most : 0;
}

absl::Status MoeLayerImpl::ForwardGathered(const MoeLayerInput& input, int32_t block_tokens,
                                           StageClock& clock, StepResult& result) {
  StepTimes& times = result.times;
  has_gathered_ = true;
  MOED_RETURN_IF_ERROR(GatherAllRows(context_, input, block_tokens));
  clock.EndStage(times.dispatch, times.dispatch_wait);
  RunGatheredExperts(context_, input, block_tokens);
  clock.EndStage(times.experts);
  MOED_RETURN_IF_ERROR(CombineReturnedBlocks(context_, input, block_tokens));
  clock.EndStage(times.combine, times.combine_wait);
  AddSharedExpert(context_, input);
  clock.EndStage(times.experts);
  const int64_t row_bytes = input.x.cols * static_cast<int64_t>(SizeBytes(input.x.dtype));
  result.dispatch_bytes += GatherBytes(context_, row_bytes, block_tokens);
  result.combine_bytes += ReturnBytes(context_, row_bytes, block_tokens);
  return absl::OkStatus();
}

absl::Status MoeLayerImpl::CheckInput(const MoeLayerInput& input) const {
  const auto refuse = [&input](const std::string& what) {
    return absl::InvalidArgumentError(
        absl::StrCat("MoE layer ", input.layer, " of step ", input.step_id, ": ", what));
  };
  if (input.weights == nullptr || input.weights->router == nullptr) return refuse("no router");
  if (input.moe_layer < 0 || static_cast<size_t>(input.moe_layer) >= slots_.size()) {
    return refuse(
        absl::StrCat("MoE layer number ", input.moe_layer, ", expected 0 to ", slots_.size() - 1));
  }
  const Communicator& communicator = context_.communicator;
  if (input.num_tokens_per_rank.size() != static_cast<size_t>(communicator.num_ranks())) {
    return refuse(absl::StrCat("token counts of ", input.num_tokens_per_rank.size(),
                               " ranks, expected ", communicator.num_ranks()));
  }
  for (const int32_t num_tokens : input.num_tokens_per_rank) {
    if (num_tokens >= 0 && num_tokens <= options_.max_tokens_per_rank) continue;
    return refuse(absl::StrCat(num_tokens, " tokens on a rank, expected 0 to ",
                               options_.max_tokens_per_rank));
  }
  const int64_t own = input.num_tokens_per_rank[communicator.rank()];
  const auto fits = [&](const kernels::TensorView& t, DType dtype) {
    return t.rows == own && t.cols == context_.config.hidden_size && t.dtype == dtype;
  };
  if (!fits(input.x, context_.backend.activation_dtype()) || !fits(input.hidden, DType::kF32)) {
    return refuse(absl::StrCat("x is [", input.x.rows, ", ", input.x.cols, "], hidden [",
                               input.hidden.rows, ", ", input.hidden.cols, "], expected both [",
                               own, ", ", context_.config.hidden_size, "]"));
  }
  return absl::OkStatus();
}

absl::StatusOr<DispatchPlan> MoeLayerImpl::Plan(const MoeLayerInput& input, StepResult& result) {
  MOED_ASSIGN_OR_RETURN(const std::span<const int32_t> topk_ids, GatherTopkIds(context_, input));
  const int32_t rank = context_.communicator.rank();
  const int32_t top_k = static_cast<int32_t>(context_.config.top_k);
  MOED_ASSIGN_OR_RETURN(DispatchPlan plan,
                        MakeDispatchPlan({.slots = &slots_[input.moe_layer],
                                          .topk_ids = topk_ids,
                                          .num_tokens_per_rank = input.num_tokens_per_rank,
                                          .top_k = top_k,
                                          .rank = rank}));
  const auto counts = input.num_tokens_per_rank;
  const int64_t own_begin = std::accumulate(counts.begin(), counts.begin() + rank, int64_t{0});
  const size_t num_experts = static_cast<size_t>(context_.config.num_experts);
  result.tokens_per_expert.resize(slots_.size() * num_experts);
  CountTokensPerExpert(
      topk_ids.subspan(own_begin * top_k, plan.num_own_output_rows()),
      std::span(result.tokens_per_expert).subspan(input.moe_layer * num_experts, num_experts));
  return plan;
}

void MoeLayerImpl::CountTraffic(const MoeLayerInput& input, const DispatchPlan& plan,
                                StepResult& result) const {
  const int64_t row_bytes = input.x.cols * static_cast<int64_t>(SizeBytes(input.x.dtype));
  result.num_expert_rows += plan.num_expert_rows();
  result.dispatch_bytes += DispatchBytes(plan, row_bytes);
  result.combine_bytes += CombineBytes(plan, row_bytes);
}

}  // namespace

absl::StatusOr<std::unique_ptr<MoeLayer>> MoeLayer::Create(kernels::Backend& backend,
                                                           Communicator& communicator,
                                                           const ModelConfig& config,
                                                           const ExpertPlacement& placement,
                                                           const MoeOptions& options) {
  if (placement.num_ranks != communicator.num_ranks()) {
    return absl::InvalidArgumentError(absl::StrCat("creating the MoE layers: the placement is for ",
                                                   placement.num_ranks, " ranks, the group has ",
                                                   communicator.num_ranks()));
  }
  MOED_ASSIGN_OR_RETURN(const MoeWorkspaceSizes sizes,
                        ComputeMoeWorkspaceSizes({.config = config,
                                                  .placement = placement,
                                                  .rank = communicator.rank(),
                                                  .options = options,
                                                  .activation = backend.activation_dtype()}));
  MOED_ASSIGN_OR_RETURN(MoeWorkspace workspace, MoeWorkspace::Allocate(backend, sizes));
  const auto num_ranks = static_cast<size_t>(communicator.num_ranks());
  workspace.send_bytes.resize(num_ranks);
  workspace.recv_bytes.resize(num_ranks);
  workspace.host_topk_ids.resize(num_ranks * options.max_tokens_per_rank * config.top_k);
  std::vector<ExpertSlots> slots;
  for (const ExpertPlacement::Layer& layer : placement.layers) {
    slots.emplace_back(layer, placement.num_experts);
  }
  auto layer =
      std::make_unique<MoeLayerImpl>(MoeLayerImpl::Parts{.backend = backend,
                                                         .communicator = communicator,
                                                         .config = config,
                                                         .options = options,
                                                         .slots = std::move(slots),
                                                         .workspace = std::move(workspace),
                                                         .workspace_bytes = sizes.total()});
  MOED_RETURN_IF_ERROR(layer->ChooseCrossover());
  return layer;
}

}  // namespace moed
