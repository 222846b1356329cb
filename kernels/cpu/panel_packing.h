#pragma once

#include <cstdint>

#include "kernels/cpu/kernel_table.h"
#include "kernels/host_weights.h"

namespace moed::kernels::cpu {

/// How a panel of 64 output features is kept; see kernel_table.h for the layouts.
enum class PanelFormat : uint8_t { kBf16, kF32, kInt8, kInt4 };

/// What the stored bytes or nibbles of an integer format are larger than the weights they mean.
constexpr int32_t WeightOffset(PanelFormat format) {
  return format == PanelFormat::kInt8 ? 128 : format == PanelFormat::kInt4 ? 8 : 0;
}

/// Bytes of a panel of k columns; k is at most 2^31.
int64_t PanelBytes(PanelFormat format, int64_t k);

/// Packs the first k elements of 64 rows: bf16 is rounded to nearest, integers as PackKernels says.
/// A group with an infinity or NaN gets the scale NaN. The bytes are the same for all kernels.
struct PackPanelParams {
  PanelFormat format = PanelFormat::kBf16;
  const SourceRow* rows = nullptr;  // [64]
  int64_t k = 0;
  char* panel = nullptr;  // [PanelBytes(format, k)], 64-byte aligned
};
void PackPanel(const KernelTable& kernels, const PackPanelParams& params);

/// out[0..k) = scale * feature c of a panel.
struct PanelColumnParams {
  PanelFormat format = PanelFormat::kBf16;
  const char* panel = nullptr;
  int64_t k = 0;
  int c = 0;
  float scale = 1.0f;
};
void UnpackPanelColumn(const PanelColumnParams& params, float* out);

}  // namespace moed::kernels::cpu
