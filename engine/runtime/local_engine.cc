#include "engine/runtime/local_engine.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "config/base/status_macros.h"
#include "engine/kv/paged_kv_cache.h"
#include "engine/model/decoder_model.h"
#include "engine/model/scoped_timer.h"
#include "engine/runtime/batch_inputs.h"
#include "engine/runtime/memory_estimate.h"
#include "engine/runtime/parse_dtype.h"
#include "engine/runtime/step_limits.h"
#include "engine/runtime/workspace.h"
#include "engine/sampling/sampler.h"

namespace moed {
namespace {

/// What an engine owns, in the order of dependence: later members point into earlier ones.
struct EngineParts {
  ModelConfig config;
  ExpertPlacement placement;
  StepLimits limits;
  std::unique_ptr<kernels::Backend> backend;
  std::unique_ptr<Communicator> communicator;
};

/// Validates, batches, runs and samples; all work is in the parts. Not moved after construction:
/// the parts point at each other.
class LocalEngineImpl final : public LocalEngine {
 public:
  explicit LocalEngineImpl(EngineParts parts) : parts_(std::move(parts)) {}
  /// The group is left first: memory is freed when the device is idle, which it never is while it
  /// waits for a rank that is gone.
  ~LocalEngineImpl() override { parts_.communicator.reset(); }

  absl::Status Load(const WeightLoaderOptions& loader, const LocalEngineOptions& options);

  const EngineInfo& info() const override { return info_; }
  absl::StatusOr<StepResult> Execute(const StepPlan& plan) override;

 private:
  absl::Status AllocateMemory(const LocalEngineOptions& options);
  absl::Status FillInfo(const WeightLoaderOptions& loader, const LocalEngineOptions& options);
  absl::StatusOr<StepResult> Run(const StepPlan& plan);

  EngineParts parts_;
  EngineInfo info_;
  std::unique_ptr<DecoderModel> model_;
  std::unique_ptr<PagedKvCache> cache_;
  std::unique_ptr<BatchInputs> inputs_;
  std::unique_ptr<Workspace> workspace_;
  std::unique_ptr<Sampler> sampler_;
  absl::Status broken_;  // the first error after which the ranks are out of step
};

absl::Status LocalEngineImpl::Load(const WeightLoaderOptions& loader,
                                   const LocalEngineOptions& options) {
  MOED_ASSIGN_OR_RETURN(ModelWeights weights,
                        LoadWeights(parts_.config, parts_.placement, loader, *parts_.backend));
  MOED_ASSIGN_OR_RETURN(
      model_, DecoderModel::Create({.backend = parts_.backend.get(),
                                    .communicator = parts_.communicator.get(),
                                    .config = &parts_.config,
                                    .placement = &parts_.placement,
                                    .max_model_len = parts_.limits.max_model_len,
                                    .max_tokens_per_rank = parts_.limits.max_tokens_per_step,
                                    .exchange = options.exchange},
                                   std::move(weights)));
  MOED_RETURN_IF_ERROR(AllocateMemory(options));
  sampler_ = std::make_unique<Sampler>(*parts_.backend, parts_.limits.num_valid_tokens);
  return FillInfo(loader, options);
}

absl::Status LocalEngineImpl::AllocateMemory(const LocalEngineOptions& options) {
  kernels::Backend& backend = *parts_.backend;
  MOED_ASSIGN_OR_RETURN(PagedKvCache cache,
                        PagedKvCache::Create(backend, KvCacheOptions(parts_.config, options)));
  MOED_ASSIGN_OR_RETURN(BatchInputs inputs, BatchInputs::Create(backend, parts_.limits));
  MOED_ASSIGN_OR_RETURN(Workspace workspace,
                        Workspace::Create(backend, parts_.config, parts_.limits));
  cache_ = std::make_unique<PagedKvCache>(std::move(cache));
  inputs_ = std::make_unique<BatchInputs>(std::move(inputs));
  workspace_ = std::make_unique<Workspace>(std::move(workspace));
  return absl::OkStatus();
}

absl::Status LocalEngineImpl::FillInfo(const WeightLoaderOptions& loader,
                                       const LocalEngineOptions& options) {
  const StepLimits& limits = parts_.limits;
  MOED_ASSIGN_OR_RETURN(const int64_t exchange_bytes,
                        ExchangeBytes(ExchangeShapeOf(parts_.config, parts_.placement, options)));
  info_ = {.rank = limits.rank,
           .num_ranks = limits.num_ranks,
           .device = parts_.backend->device(),
           .instruction_set = parts_.backend->instruction_set(),
           .dtype = std::string(Name({options.backend.activation_dtype, loader.weight_format})),
           .num_threads = options.backend.num_threads,
           .block_size = limits.block_size,
           .num_blocks = limits.num_blocks,
           .max_tokens_per_step = limits.max_tokens_per_step,
           .max_sequences_per_step = limits.max_sequences_per_step,
           .weight_bytes = model_->weight_bytes(),
           .kv_bytes = cache_->size_bytes(),
           .exchange_bytes = exchange_bytes,
           .workspace_bytes =
               model_->workspace_bytes() + inputs_->size_bytes() + workspace_->size_bytes()};
  return absl::OkStatus();
}

absl::StatusOr<StepResult> LocalEngineImpl::Execute(const StepPlan& plan) {
  if (!broken_.ok()) {
    return absl::FailedPreconditionError(
        absl::StrCat("rank ", info_.rank, " cannot execute step ", plan.step_id,
                     ": an earlier step failed: ", broken_.message()));
  }
  MOED_RETURN_IF_ERROR(ValidateStepPlan(plan, parts_.limits));
  absl::StatusOr<StepResult> result = Run(plan);
  broken_ = result.status();
  return result;
}

absl::StatusOr<StepResult> LocalEngineImpl::Run(const StepPlan& plan) {
  StepResult result{.step_id = plan.step_id};
  {
    ScopedTimer total_timer(result.times.total);
    const ModelBatch batch = inputs_->Fill(plan);
    const Activations& activations = workspace_->activations();
    MOED_RETURN_IF_ERROR(parts_.backend->RunStep(
        model_->Step(batch), [&] { return model_->Forward(batch, *cache_, activations, result); }));
    MOED_RETURN_IF_ERROR(
        parts_.communicator->Finish({.step_id = plan.step_id,
                                     .layer = static_cast<int32_t>(parts_.config.num_layers),
                                     .phase = "sampling"}));
    ScopedTimer sampling_timer(result.times.sampling);
    const int64_t num_sampled = batch.is_recordable ? batch.num_own_tokens : batch.num_sampled;
    result.sampled = sampler_->Sample(FirstRows(activations.logits, num_sampled), plan.slices);
    model_->FinishStep(batch, result);
    MOED_RETURN_IF_ERROR(parts_.backend->Synchronize());
  }
  return result;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> LocalEngine::Create(
    const ModelConfig& config, const ExpertPlacement& placement, const WeightLoaderOptions& loader,
    const LocalEngineOptions& options, const CommunicatorFactory& make_communicator) {
  MOED_ASSIGN_OR_RETURN(const StepLimits limits,
                        ResolveStepLimits(config, placement, loader.rank, options));
  MOED_ASSIGN_OR_RETURN(std::unique_ptr<kernels::Backend> backend,
                        kernels::CreateBackend(options.backend));
  MOED_RETURN_IF_ERROR(backend->CheckHeadDim(config.head_dim));
  MOED_ASSIGN_OR_RETURN(std::unique_ptr<Communicator> communicator, make_communicator(*backend));
  if (communicator->rank() != limits.rank || communicator->num_ranks() != limits.num_ranks) {
    return absl::InvalidArgumentError(absl::StrCat(
        "engine is rank ", limits.rank, " of ", limits.num_ranks, ", but its communicator is rank ",
        communicator->rank(), " of ", communicator->num_ranks()));
  }
  auto engine =
      std::make_unique<LocalEngineImpl>(EngineParts{.config = config,
                                                    .placement = placement,
                                                    .limits = limits,
                                                    .backend = std::move(backend),
                                                    .communicator = std::move(communicator)});
  MOED_RETURN_IF_ERROR(engine->Load(loader, options));
  return engine;
}

}  // namespace moed
