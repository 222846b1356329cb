#pragma once

#include <cstdint>
#include <span>

#include "kernels/params.h"
#include "kernels/tensor_view.h"

/// The checks of backend.h's promises that backends share; none of them can fail for an input.
namespace moed::kernels {

bool HasShape(const TensorView& tensor, int64_t rows, int64_t cols, DType dtype);

/// Offsets of every expert, ascending from 0; at most max_rows.
bool AreOffsets(std::span<const int32_t> offsets, int64_t num_experts, int64_t max_rows);

/// Aborts unless the slices lie within q and their blocks within the cache and hold their keys, of
/// which no slice has more than max_keys.
void CheckBatch(const AttentionParams& params, int64_t max_keys);

}  // namespace moed::kernels
