#pragma once

#include <cstdint>

#include "config/base/dtype.h"
#include "kernels/cpu/kernel_table.h"

namespace moed::kernels::cpu {

/// How a panel of 64 output features is kept; see kernel_table.h for the layouts.
enum class PanelFormat : uint8_t { kBf16, kF32, kInt8, kInt4 };

/// What the stored bytes or nibbles of an integer format are larger than the weights they mean.
constexpr int32_t WeightOffset(PanelFormat format) {
  return format == PanelFormat::kInt8 ? 128 : format == PanelFormat::kInt4 ? 8 : 0;
}

/// One row of a source matrix; no data stands for a row of zeros.
struct SourceRow {
  const char* data = nullptr;
  DType dtype = DType::kBF16;  // kBF16, kF16 or kF32
};

/// Bytes of a panel of k columns; k is at most 2^31.
int64_t PanelBytes(PanelFormat format, int64_t k);

/// Packs the first k elements of 64 rows. bf16 is rounded to nearest. int8: the scale is the
/// largest magnitude of the group / 127, int4: its signed value / -8, so that it is met exactly,
/// but for the rounding of the scale to bf16; values are rounded to nearest of what the rounded
/// scale can say. A group with an infinity or NaN gets the scale NaN.
void PackPanel(PanelFormat format, const SourceRow* rows, int64_t k, void* panel);

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
