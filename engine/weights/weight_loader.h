#pragma once

#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "config/model_config.h"
#include "engine/api/expert_placement.h"
#include "engine/weights/model_weights.h"
#include "kernels/backend.h"

namespace moed {

enum class LoadFormat : uint8_t { kAuto, kDummy };

struct WeightLoaderOptions {
  std::string model_dir;  // not read with kDummy
  LoadFormat format = LoadFormat::kAuto;
  uint64_t dummy_seed = 0;
  /// Of attention and expert matrices. The others follow from it: see FormatRule.
  kernels::WeightFormat weight_format = kernels::WeightFormat::kStored;
  int32_t rank = 0;
  /// Called after each tensor group with bytes done and bytes in all; may be empty.
  std::function<void(int64_t done_bytes, int64_t total_bytes)> progress;
  /// Polled between tensors; loading stops with CANCELLED when it returns true; may be empty.
  std::function<bool()> cancelled;
};

/// Loads what `rank` holds under `placement`. Reads only those bytes of the files. A missing,
/// misshapen or surplus tensor is INVALID_ARGUMENT by name; a truncated or lying file is DATA_LOSS.
/// kDummy: every weight is a pure function of (seed, tensor name, element index): the same at any
/// number of ranks. Matrices are scaled so that hidden states stay O(1) and routing stays diverse;
/// norms are 1.
absl::StatusOr<ModelWeights> LoadWeights(const ModelConfig& config,
                                         const ExpertPlacement& placement,
                                         const WeightLoaderOptions& options,
                                         kernels::Backend& backend);

/// BF16 if every matrix that LoadWeights would read is stored so (as dummy weights are), F8E4M3 if
/// all projections of layers are; else F32: a backend that keeps what is stored keeps anything else
/// as F32. Reads the headers of the files
/// only; fails as LoadWeights does. Norms and biases do not count.
absl::StatusOr<DType> StoredMatrixDType(const ModelConfig& config,
                                        const WeightLoaderOptions& options);

struct WeightBytesParams {
  int32_t rank = 0;
  kernels::WeightFormat format = kernels::WeightFormat::kStored;  // as in WeightLoaderOptions
  /// Of the matrices that are kept as stored; kF8E4M3: the projections of layers are kept so,
  /// others as bf16.
  DType stored_dtype = DType::kBF16;
};

/// Bytes of weights that `rank` would hold, without the padding of rows, computed from the config
/// alone (for `moed --check`).
absl::StatusOr<int64_t> WeightBytes(const ModelConfig& config, const ExpertPlacement& placement,
                                    const WeightBytesParams& params);

}  // namespace moed
