#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "config/model_config.h"
#include "engine/model/model_batch.h"
#include "engine/runtime/step_limits.h"
#include "kernels/backend.h"

namespace moed {

/// All scratch of the forward pass of one rank, sized once for the largest step.
///
/// Owned by the engine of the rank, used from its compute thread. The backend must outlive it.
class Workspace {
 public:
  static absl::StatusOr<Workspace> Create(kernels::Backend& backend, const ModelConfig& config,
                                          const StepLimits& limits);

  /// Bytes that Create would allocate.
  static int64_t Bytes(const ModelConfig& config, const StepLimits& limits, DType activation_dtype);

  const Activations& activations() const { return activations_; }
  int64_t size_bytes() const;

 private:
  Workspace() = default;

  Activations activations_;
  std::vector<kernels::Buffer> buffers_;  // what the activations point into
};

}  // namespace moed
