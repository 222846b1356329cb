#pragma once

#include <cstdint>
#include <optional>

#include "config/base/dtype.h"
#include "engine/weights/weight_map.h"
#include "kernels/params.h"

namespace moed {

/// Decides in which format each matrix of a model is kept when a format is asked for: attention and
/// experts as asked; the head, which is as sensitive as it is large, in at least kInt8, and with it
/// an embedding that is tied to it; the small rest as stored. A value.
struct FormatRule {
  kernels::WeightFormat asked = kernels::WeightFormat::kStored;
  bool tied_embedding = false;

  kernels::WeightFormat Of(WeightRole role) const;

  /// What a backend uses for `ref`, without its padding of rows; `stored_dtype` is the type of what
  /// is kept as stored. Norms and biases are float32. Empty if it is more than 2^64 bytes.
  std::optional<uint64_t> Bytes(const MatrixRef& ref, DType stored_dtype) const;
};

}  // namespace moed
