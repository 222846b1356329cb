#include "tests/fakes/bare_model.h"

#include <numeric>
#include <utility>

#include "config/base/status_macros.h"
#include "engine/comm/shm_communicator.h"

namespace moed {
namespace {

constexpr int32_t kBlockSize = 4;

}  // namespace

BareModel::BareModel(const BareModelOptions& options)
    : config_(options.config),
      placement_(ExpertPlacement::Linear(static_cast<int32_t>(config_.num_moe_layers()),
                                         static_cast<int32_t>(config_.num_experts), 1)),
      communicator_(CreateSingleRankCommunicator()) {
  limits_ = {.vocab_size = static_cast<int32_t>(config_.vocab_size),
             .num_valid_tokens = static_cast<int32_t>(config_.vocab_size),
             .block_size = kBlockSize,
             .max_model_len = static_cast<int32_t>(config_.max_positions),
             .max_tokens_per_step = options.max_tokens,
             .max_sequences_per_step = options.max_tokens};
  limits_.num_blocks = limits_.max_blocks_per_sequence();
}

absl::StatusOr<std::unique_ptr<BareModel>> BareModel::Create(const BareModelOptions& options) {
  std::unique_ptr<BareModel> model(new BareModel(options));
  MOED_RETURN_IF_ERROR(model->Load(options));
  return model;
}

absl::Status BareModel::Load(const BareModelOptions& options) {
  MOED_ASSIGN_OR_RETURN(backend_, kernels::CreateBackend(options.backend));
  MOED_ASSIGN_OR_RETURN(ModelWeights weights,
                        LoadWeights(config_, placement_, options.loader, *backend_));
  MOED_ASSIGN_OR_RETURN(model_,
                        DecoderModel::Create({.backend = backend_.get(),
                                              .communicator = communicator_.get(),
                                              .config = &config_,
                                              .placement = &placement_,
                                              .max_model_len = limits_.max_model_len,
                                              .max_tokens_per_rank = limits_.max_tokens_per_step},
                                             std::move(weights)));
  MOED_ASSIGN_OR_RETURN(
      PagedKvCache cache,
      PagedKvCache::Create(*backend_, {.num_layers = config_.num_layers,
                                       .num_kv_heads = config_.num_kv_heads,
                                       .head_dim = config_.head_dim,
                                       .block_size = limits_.block_size,
                                       .num_blocks = limits_.num_blocks,
                                       .dtype = options.backend.activation_dtype}));
  MOED_ASSIGN_OR_RETURN(BatchInputs inputs, BatchInputs::Create(*backend_, limits_));
  MOED_ASSIGN_OR_RETURN(Workspace workspace, Workspace::Create(*backend_, config_, limits_));
  cache_ = std::make_unique<PagedKvCache>(std::move(cache));
  inputs_ = std::make_unique<BatchInputs>(std::move(inputs));
  workspace_ = std::make_unique<Workspace>(std::move(workspace));

  std::vector<int32_t> rows(limits_.max_tokens_per_step);
  std::iota(rows.begin(), rows.end(), 0);
  MOED_ASSIGN_OR_RETURN(all_rows_, backend_->Allocate(rows.size() * sizeof(int32_t)));
  backend_->CopyToDevice(all_rows_.data(), rows.data(), rows.size() * sizeof(int32_t));
  return absl::OkStatus();
}

absl::StatusOr<std::vector<float>> BareModel::Logits(std::span<const int32_t> token_ids,
                                                     int32_t start_position) {
  Slice slice{.start_position = start_position,
              .token_ids = {token_ids.begin(), token_ids.end()},
              .block_table = std::vector<int32_t>(limits_.num_blocks)};
  // Backwards, so that no test passes because blocks happen to be in order.
  std::iota(slice.block_table.rbegin(), slice.block_table.rend(), 0);
  const StepPlan plan{.num_tokens_per_rank = {static_cast<int32_t>(token_ids.size())},
                      .slices = {slice}};
  MOED_RETURN_IF_ERROR(ValidateStepPlan(plan, limits_));
  ModelBatch batch = inputs_->Fill(plan);
  batch.num_sampled = batch.num_tokens;
  batch.sampled_rows = all_rows_.as<int32_t>();

  StepResult result;
  MOED_RETURN_IF_ERROR(model_->Forward(batch, *cache_, workspace_->activations(), result));
  MOED_RETURN_IF_ERROR(backend_->Synchronize());
  std::vector<float> logits(batch.num_tokens * config_.vocab_size);
  backend_->CopyToHost(logits.data(), workspace_->activations().logits.data,
                       logits.size() * sizeof(float));
  return logits;
}

}  // namespace moed
