#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "config/model_config.h"
#include "engine/api/expert_placement.h"
#include "engine/comm/communicator.h"
#include "engine/kv/paged_kv_cache.h"
#include "engine/model/decoder_model.h"
#include "engine/runtime/batch_inputs.h"
#include "engine/runtime/workspace.h"
#include "engine/weights/weight_loader.h"
#include "kernels/create_backend.h"

namespace moed {

struct BareModelOptions {
  ModelConfig config;
  WeightLoaderOptions loader;
  kernels::BackendOptions backend;  // the KV cache has the activation dtype
  int32_t max_tokens = 64;          // of one call
};

/// A DecoderModel on one rank with all it needs, for tests that look at logits (which never leave
/// an engine). One sequence at a time.
class BareModel {
 public:
  static absl::StatusOr<std::unique_ptr<BareModel>> Create(const BareModelOptions& options);

  /// Computes `token_ids` after the first `start_position` tokens of the sequence. Returns the
  /// logits of every one of them, [token_ids.size(), V].
  absl::StatusOr<std::vector<float>> Logits(std::span<const int32_t> token_ids,
                                            int32_t start_position);

  int64_t vocab_size() const { return config_.vocab_size; }
  int64_t weight_bytes() const { return model_->weight_bytes(); }

 private:
  explicit BareModel(const BareModelOptions& options);
  absl::Status Load(const BareModelOptions& options);

  const ModelConfig config_;
  const ExpertPlacement placement_;
  StepLimits limits_;
  std::unique_ptr<kernels::Backend> backend_;
  std::unique_ptr<Communicator> communicator_;
  std::unique_ptr<DecoderModel> model_;
  std::unique_ptr<PagedKvCache> cache_;
  std::unique_ptr<BatchInputs> inputs_;
  std::unique_ptr<Workspace> workspace_;
  kernels::Buffer all_rows_;  // 0, 1, 2, ...
};

}  // namespace moed
