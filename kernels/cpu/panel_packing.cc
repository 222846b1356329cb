#include "kernels/cpu/panel_packing.h"

#include <algorithm>
#include <cstring>

#include "config/base/check.h"
#include "kernels/float_convert.h"

namespace moed::kernels::cpu {
namespace {

constexpr int64_t kPieceColumns = 4 * kGroup;  // are converted at a time

/// Bytes of an element of bf16 or f32.
int64_t BytesOf(DType dtype) { return dtype == DType::kBF16 ? 2 : 4; }

/// The rows of a panel as elements of one type, in place where they are stored so.
///
/// Lives for the packing of one panel, in one thread.
class PanelRows {
 public:
  PanelRows(const RowKernels& kernels, const SourceRow* rows, DType element)
      : kernels_(kernels), rows_(rows), element_(element) {}

  /// Calls pack(pointers to 64 rows, begin, count) for pieces of the columns [0, k), in ascending
  /// order; begin is a multiple of kGroup, and what a piece lacks to one is there as zeros.
  template <typename Pack>
  void ForEachPiece(int64_t k, const Pack& pack) {
    const char* pointers[kPanelWidth];
    int64_t begin = 0;
    if (AllInPlace() && k >= kGroup) {
      for (int c = 0; c < kPanelWidth; ++c) pointers[c] = rows_[c].data;
      begin = k / kGroup * kGroup;
      pack(pointers, int64_t{0}, begin);
    }
    for (; begin < k; begin += kPieceColumns) {
      const int64_t count = std::min(kPieceColumns, k - begin);
      for (int c = 0; c < kPanelWidth; ++c) pointers[c] = Convert(c, begin, count);
      pack(pointers, begin, count);
    }
  }

 private:
  bool AllInPlace() const {
    return std::all_of(rows_, rows_ + kPanelWidth, [this](const SourceRow& row) {
      return row.data != nullptr && row.dtype == element_;
    });
  }

  /// Elements [begin, begin + count) of row c, then zeros.
  const char* Convert(int c, int64_t begin, int64_t count) {
    const SourceRow& row = rows_[c];
    const int64_t bytes = BytesOf(element_);
    char* out = pieces_ + c * kPieceColumns * 4;
    if (row.data == nullptr) count = 0;
    std::memset(out + count * bytes, 0, (kPieceColumns - count) * bytes);
    if (count == 0) return out;
    if (row.dtype == element_) {
      std::memcpy(out, row.data + begin * bytes, count * bytes);
    } else if (element_ == DType::kF32) {
      ReadFloats(row, begin, count, reinterpret_cast<float*>(out));
    } else {
      float floats[kPieceColumns];
      ReadFloats(row, begin, count, floats);
      kernels_.to_bf16(floats, count, reinterpret_cast<uint16_t*>(out));
    }
    return out;
  }

  const RowKernels& kernels_;
  const SourceRow* const rows_;  // [64]
  const DType element_;
  alignas(64) char pieces_[kPanelWidth * kPieceColumns * 4];
};

int64_t GroupBytes(PanelFormat format) {
  return format == PanelFormat::kInt8 ? kInt8GroupBytes : kInt4GroupBytes;
}

using PackRowsFunction = void (*)(const char* const* rows, int64_t count, void* out);

/// Words are pairs of bf16, or f32.
void PackWordPanel(const KernelTable& kernels, const PackPanelParams& p) {
  const bool is_f32 = p.format == PanelFormat::kF32;
  PanelRows rows(*kernels.rows, p.rows, is_f32 ? DType::kF32 : DType::kBF16);
  rows.ForEachPiece(p.k, [&](const char* const* pointers, int64_t begin, int64_t count) {
    const int64_t first = is_f32 ? begin : begin / 2, words = is_f32 ? count : (count + 1) / 2;
    kernels.pack->words(pointers, words, p.panel + first * kPanelWidth * 4);
  });
}

void PackIntegerPanel(const KernelTable& kernels, const PackPanelParams& p) {
  // bf16 takes half the loads; f32 holds whatever else there is.
  const bool is_bf16 = std::all_of(p.rows, p.rows + kPanelWidth, [](const SourceRow& row) {
    return row.data == nullptr || row.dtype == DType::kBF16;
  });
  const PackKernels& pack = *kernels.pack;
  const PackRowsFunction pack_groups = p.format == PanelFormat::kInt8
                                           ? (is_bf16 ? pack.int8_bf16 : pack.int8_f32)
                                           : (is_bf16 ? pack.int4_bf16 : pack.int4_f32);
  const int64_t group_bytes = GroupBytes(p.format), strip_bytes = NumGroups(p.k) * group_bytes;
  PanelRows rows(*kernels.rows, p.rows, is_bf16 ? DType::kBF16 : DType::kF32);
  rows.ForEachPiece(p.k, [&](const char* const* pointers, int64_t begin, int64_t count) {
    char* out = p.panel + begin / kGroup * group_bytes;
    pack_groups(pointers, NumGroups(count), out);
    pack_groups(pointers + kStripWidth, NumGroups(count), out + strip_bytes);
  });
}

void UnpackIntegerColumn(const PanelColumnParams& p, float* out) {
  const int64_t bytes = GroupBytes(p.format);
  const char* strip = p.panel + p.c / kStripWidth * NumGroups(p.k) * bytes;
  const int c = p.c % kStripWidth;
  for (int64_t i = 0; i < p.k; ++i) {
    const char* group = strip + i / kGroup * bytes;
    uint16_t scale;
    std::memcpy(&scale, group + 2 * c, sizeof(scale));
    const uint8_t* column = reinterpret_cast<const uint8_t*>(group) + kStripScaleBytes + 4 * c;
    const int64_t quad = i % kGroup / 4, lane = i % 4;
    int32_t stored;
    if (p.format == PanelFormat::kInt8) {
      stored = column[quad * 4 * kStripWidth + lane];
    } else {
      stored = column[quad / 2 * 4 * kStripWidth + lane] >> (quad % 2 * 4) & 15;
    }
    out[i] = p.scale * (Bf16ToFloat(scale) * static_cast<float>(stored - WeightOffset(p.format)));
  }
}

}  // namespace

int64_t PanelBytes(PanelFormat format, int64_t k) {
  switch (format) {
    case PanelFormat::kBf16:
      return (k + 1) / 2 * 2 * kPanelWidth * int64_t{sizeof(uint16_t)};
    case PanelFormat::kF32:
      return k * kPanelWidth * int64_t{sizeof(float)};
    case PanelFormat::kInt8:
    case PanelFormat::kInt4:
      return 2 * NumGroups(k) * GroupBytes(format);
  }
  return 0;
}

void PackPanel(const KernelTable& kernels, const PackPanelParams& params) {
  switch (params.format) {
    case PanelFormat::kBf16:
    case PanelFormat::kF32:
      return PackWordPanel(kernels, params);
    case PanelFormat::kInt8:
    case PanelFormat::kInt4:
      return PackIntegerPanel(kernels, params);
  }
}

void UnpackPanelColumn(const PanelColumnParams& p, float* out) {
  if (p.format == PanelFormat::kF32) {
    const float* w = reinterpret_cast<const float*>(p.panel) + p.c;
    for (int64_t i = 0; i < p.k; ++i) out[i] = p.scale * w[i * kPanelWidth];
    return;
  }
  if (p.format != PanelFormat::kBf16) return UnpackIntegerColumn(p, out);
  const uint16_t* w = reinterpret_cast<const uint16_t*>(p.panel) + 2 * p.c;
  for (int64_t i = 0; i < p.k; ++i) {
    out[i] = p.scale * Bf16ToFloat(w[(i & ~int64_t{1}) * kPanelWidth + (i & 1)]);
  }
}

}  // namespace moed::kernels::cpu
