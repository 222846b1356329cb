#include "kernels/cpu/panel_packing.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/cpu/float_convert.h"

namespace moed::kernels::cpu {
namespace {

float ReadFloat(const SourceRow& row, int64_t i) {
  if (row.data == nullptr) return 0.0f;
  if (row.dtype == DType::kF32) {
    float x;
    std::memcpy(&x, row.data + 4 * i, sizeof(x));
    return x;
  }
  uint16_t bits;
  std::memcpy(&bits, row.data + 2 * i, sizeof(bits));
  return row.dtype == DType::kBF16 ? Bf16ToFloat(bits) : F16ToFloat(bits);
}

uint16_t ReadBf16(const SourceRow& row, int64_t i) {
  if (row.data == nullptr) return 0;
  if (row.dtype != DType::kBF16) return FloatToBf16(ReadFloat(row, i));
  uint16_t bits;
  std::memcpy(&bits, row.data + 2 * i, sizeof(bits));
  return bits;
}

// Each source row is read a few cache lines at a time, so that 64 of them and the panel stay in
// L1/L2.
constexpr int64_t kPackStep = 64;

/// Elements [begin, end) of a row into column c of a panel of pairs; begin is even.
void PackBf16Column(const SourceRow& row, int64_t begin, int64_t end, uint16_t* column) {
  int64_t i = begin;
  if (row.dtype == DType::kBF16 && row.data != nullptr) {  // pairs as they are
    for (; i + 2 <= end; i += 2) {
      std::memcpy(column + i * kPanelWidth, row.data + 2 * i, 2 * sizeof(uint16_t));
    }
  }
  for (; i < end; i += 2) {
    column[i * kPanelWidth] = ReadBf16(row, i);
    column[i * kPanelWidth + 1] = i + 1 < end ? ReadBf16(row, i + 1) : uint16_t{0};
  }
}

void PackBf16Panel(const SourceRow* rows, int64_t k, uint16_t* panel) {
  for (int64_t begin = 0; begin < k; begin += kPackStep) {
    const int64_t end = std::min(begin + kPackStep, k);
    for (int c = 0; c < kPanelWidth; ++c) PackBf16Column(rows[c], begin, end, panel + 2 * c);
  }
}

void PackF32Panel(const SourceRow* rows, int64_t k, float* panel) {
  for (int64_t begin = 0; begin < k; begin += kPackStep) {
    const int64_t end = std::min(begin + kPackStep, k);
    for (int c = 0; c < kPanelWidth; ++c) {
      for (int64_t i = begin; i < end; ++i) panel[i * kPanelWidth + c] = ReadFloat(rows[c], i);
    }
  }
}

/// The integers of one group of one feature.
struct QuantizedGroup {
  uint16_t scale = 0;      // bf16
  uint8_t stored[kGroup];  // q + offset
};

/// The element of largest magnitude; NaN if one is infinite or NaN.
float Extreme(const float* w) {
  float extreme = 0.0f;
  for (int i = 0; i < kGroup; ++i) {
    if (!std::isfinite(w[i])) return std::numeric_limits<float>::quiet_NaN();
    if (std::fabs(w[i]) > std::fabs(extreme)) extreme = w[i];
  }
  return extreme;
}

/// lowest and highest: of q; offset is -lowest or more.
struct IntegerRange {
  float lowest;
  float highest;
  int32_t offset;
};

QuantizedGroup QuantizeGroup(const float* w, float wanted_scale, const IntegerRange& range) {
  QuantizedGroup group;
  group.scale = FloatToBf16(wanted_scale);
  const float scale = Bf16ToFloat(group.scale);
  const bool usable = std::isfinite(scale) && scale != 0.0f;
  const float inverse = usable ? 1.0f / scale : 0.0f;
  for (int i = 0; i < kGroup; ++i) {
    const float q =
        usable ? std::clamp(std::nearbyint(w[i] * inverse), range.lowest, range.highest) : 0.0f;
    group.stored[i] = static_cast<uint8_t>(static_cast<int32_t>(q) + range.offset);
  }
  return group;
}

QuantizedGroup QuantizeInt8(const float* w) {
  return QuantizeGroup(w, std::fabs(Extreme(w)) / 127.0f,
                       {-127.0f, 127.0f, WeightOffset(PanelFormat::kInt8)});
}

QuantizedGroup QuantizeInt4(const float* w) {
  return QuantizeGroup(w, Extreme(w) / -8.0f, {-8.0f, 7.0f, WeightOffset(PanelFormat::kInt4)});
}

void StoreInt8(const QuantizedGroup& group, uint8_t* column) {
  for (int i = 0; i < kGroup; i += 4) std::memcpy(column + i * kStripWidth, group.stored + i, 4);
}

void StoreInt4(const QuantizedGroup& group, uint8_t* column) {
  for (int i = 0; i < kGroup; i += 8) {
    for (int j = 0; j < 4; ++j) {
      column[i / 2 * kStripWidth + j] =
          static_cast<uint8_t>(group.stored[i + j] | group.stored[i + 4 + j] << 4);
    }
  }
}

/// One group of k of one strip.
void PackStripGroup(PanelFormat format, const SourceRow* rows, int64_t begin, int64_t k,
                    uint8_t* out) {
  const int count = static_cast<int>(std::min<int64_t>(kGroup, k - begin));
  for (int c = 0; c < kStripWidth; ++c) {
    float w[kGroup] = {};
    for (int i = 0; i < count; ++i) w[i] = ReadFloat(rows[c], begin + i);
    const QuantizedGroup group = format == PanelFormat::kInt8 ? QuantizeInt8(w) : QuantizeInt4(w);
    std::memcpy(out + 2 * c, &group.scale, sizeof(group.scale));
    uint8_t* column = out + kStripScaleBytes + 4 * c;
    format == PanelFormat::kInt8 ? StoreInt8(group, column) : StoreInt4(group, column);
  }
}

int64_t GroupBytes(PanelFormat format) {
  return format == PanelFormat::kInt8 ? kInt8GroupBytes : kInt4GroupBytes;
}

void PackIntegerPanel(PanelFormat format, const SourceRow* rows, int64_t k, uint8_t* panel) {
  for (int strip = 0; strip < 2; ++strip) {
    for (int64_t begin = 0; begin < k; begin += kGroup) {
      PackStripGroup(format, rows + strip * kStripWidth, begin, k, panel);
      panel += GroupBytes(format);
    }
  }
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

void PackPanel(PanelFormat format, const SourceRow* rows, int64_t k, void* panel) {
  switch (format) {
    case PanelFormat::kBf16:
      return PackBf16Panel(rows, k, static_cast<uint16_t*>(panel));
    case PanelFormat::kF32:
      return PackF32Panel(rows, k, static_cast<float*>(panel));
    case PanelFormat::kInt8:
    case PanelFormat::kInt4:
      return PackIntegerPanel(format, rows, k, static_cast<uint8_t*>(panel));
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
