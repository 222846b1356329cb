#pragma once

#include <cstdint>
#include <span>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/cuda/cuda_context.h"
#include "kernels/cuda/device_weights.h"
#include "kernels/host_weights.h"

namespace moed::kernels::cuda {

/// How rows are kept: as integers where these are asked for; as fp8 where all of them are stored
/// so; else as bf16.
Encoding EncodingOf(std::span<const SourceRow> rows, WeightFormat format);

struct PackedShape {
  Encoding encoding = Encoding::kInt8;  // not kBf16
  int64_t num_matrices = 1;
  int64_t cols = 0;
};

/// Copies rows to the device, some megabytes at a time, and packs them there. `rows` holds those of
/// all matrices; a row without data is zeros. INVALID_ARGUMENT for too many, RESOURCE_EXHAUSTED
/// when memory is short.
absl::StatusOr<LoadedMatrix> LoadPackedRows(const WeightDevice& device, const PackedShape& shape,
                                            std::span<const SourceRow> rows);

}  // namespace moed::kernels::cuda
