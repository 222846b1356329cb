#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "engine/weights/checkpoint.h"
#include "engine/weights/tensor_source.h"

namespace moed {

/// INVALID_ARGUMENT unless the checkpoint has exactly the tensors of `tensors`, each with its shape
/// and in F32, BF16 or F16; the message names the first few that are missing, misshapen and
/// surplus. Rotary frequencies, and lm_head where it is tied to the embedding, are ignored. In a
/// model with fp8 weights, projections and the head may be F8_E4M3: X then has beside it
/// X_scale_inv, with a scale for each block of 128 x 128.
absl::Status CheckTensors(const ModelTensors& tensors, const Checkpoint& checkpoint);

/// Matrices that lie in the mapped files of a checkpoint; nothing is copied but the scales of fp8.
class FileTensors : public TensorSource {
 public:
  /// Every matrix read must be one of those that CheckTensors() found good.
  explicit FileTensors(const Checkpoint& checkpoint) : checkpoint_(checkpoint) {}

  kernels::HostMatrix Read(const MatrixRef& ref) override;
  int64_t SizeBytes(const MatrixRef& ref) const override;
  void Release() override;

 private:
  kernels::BlockScales ReadScales(const MatrixRef& ref);

  const Checkpoint& checkpoint_;  // outlives this
  std::vector<std::vector<float>> scales_in_use_;
  std::vector<std::pair<const SafetensorsFile*, std::span<const std::byte>>> in_use_;
};

}  // namespace moed
