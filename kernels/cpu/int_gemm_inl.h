#pragma once

#include <cstdint>

#include "kernels/cpu/gemm_inl.h"
#include "kernels/cpu/kernel_table.h"

/// Products of quantised rows and integer weights, over the vectors of the simd_*.h and the
/// products of the simd_int_*.h included before.
namespace moed::kernels::cpu {
namespace {

// Columns of a strip that are computed at a time.
constexpr int kIntVecs = 2;
static_assert(kStripWidth % (kIntVecs * kLanes) == 0);

/// Some quantised rows, from a group on.
struct QuantizedRows {
  const char* values[kIntBlockRows];  // [groups, 32]
  int64_t info_distance;              // from values to the first group's GroupInfo
};

template <int R>
using IntTile = IntVec[R][kIntVecs];

/// Four neighbours of k of every row, at `offset` bytes of its values.
inline IntVec BroadcastQuad(const char* values, int64_t offset) {
  int32_t quad;
  memcpy(&quad, values + offset, sizeof(quad));
  return SetInt(quad);
}

struct Int8Format {
  static constexpr int64_t kGroupBytes = kInt8GroupBytes;
  static constexpr int kSteps = kGroup / 4;  // of AddGroup
  static constexpr bool kSumsHaveOffset = kInt8SumsHaveOffset;

  /// Adds a group of k; `weights` are those of the first column.
  template <int R>
  static void AddGroup(const QuantizedRows& x, int64_t offset, const char* weights,
                       LinePrefetch& prefetch, IntTile<R>& sum) {
    for (int i = 0; i < kGroup; i += 4, weights += 4 * kStripWidth) {
      prefetch.Next();
      Int8Weights w[kIntVecs];
      for (int v = 0; v < kIntVecs; ++v) w[v] = PrepareInt8(LoadInts(weights + 4 * kLanes * v));
      for (int r = 0; r < R; ++r) {
        const IntVec quad = BroadcastQuad(x.values[r], offset + i);
        for (int v = 0; v < kIntVecs; ++v) sum[r][v] = DotInt8(sum[r][v], w[v], quad);
      }
    }
  }
};

struct Int4Format {
  static constexpr int64_t kGroupBytes = kInt4GroupBytes;
  static constexpr int kSteps = kGroup / 8;
  static constexpr bool kSumsHaveOffset = true;

  template <int R>
  static void AddGroup(const QuantizedRows& x, int64_t offset, const char* weights,
                       LinePrefetch& prefetch, IntTile<R>& sum) {
    for (int i = 0; i < kGroup; i += 8, weights += 4 * kStripWidth) {
      prefetch.Next();
      IntVec low[kIntVecs], high[kIntVecs];
      for (int v = 0; v < kIntVecs; ++v) {
        const IntVec stored = LoadInts(weights + 4 * kLanes * v);
        low[v] = LowNibbles(stored);
        high[v] = HighNibbles(stored);
      }
      for (int r = 0; r < R; ++r) {
        const IntVec first = BroadcastQuad(x.values[r], offset + i);
        const IntVec second = BroadcastQuad(x.values[r], offset + i + 4);
        for (int v = 0; v < kIntVecs; ++v) sum[r][v] = DotUnsigned(sum[r][v], low[v], first);
        for (int v = 0; v < kIntVecs; ++v) sum[r][v] = DotUnsigned(sum[r][v], high[v], second);
      }
    }
  }
};

/// What R rows and a strip share in a part of k.
struct StripPart {
  const QuantizedRows* x = nullptr;
  int64_t groups = 0;
  TileMode mode;
};

/// Some columns of a strip: y [R, 64] (+)= the sum over groups, in ascending order.
template <typename Format, int R>
inline void StripColumns(const StripPart& part, const char* strip, int column,
                         LinePrefetch& prefetch, float* y) {
  Vec acc[R][kIntVecs];
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < kIntVecs; ++v) {
      acc[r][v] = part.mode.add ? Load(y + r * kPanelWidth + v * kLanes) : Zero();
    }
  }
  const QuantizedRows& x = *part.x;
  int64_t info_offset = x.info_distance;
  for (int64_t g = 0; g < part.groups; ++g, strip += Format::kGroupBytes) {
    IntTile<R> sum;
    float x_scale[R];
    for (int r = 0; r < R; ++r) {
      GroupInfo info;
      memcpy(&info, x.values[r] + info_offset, sizeof(info));
      x_scale[r] = info.scale;
      for (int v = 0; v < kIntVecs; ++v) {
        sum[r][v] = SetInt(Format::kSumsHaveOffset ? info.minus_offset : 0);
      }
    }
    info_offset += sizeof(GroupInfo);
    Format::template AddGroup<R>(x, g * kGroup, strip + kStripScaleBytes + 4 * column, prefetch,
                                 sum);
    const uint16_t* scales = reinterpret_cast<const uint16_t*>(strip) + column;
    Vec w_scale[kIntVecs];
    for (int v = 0; v < kIntVecs; ++v) w_scale[v] = Load(scales + v * kLanes);
    for (int r = 0; r < R; ++r) {
      for (int v = 0; v < kIntVecs; ++v) {
        acc[r][v] = Fma(IntsToFloats(sum[r][v]), Mul(w_scale[v], Set(x_scale[r])), acc[r][v]);
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < kIntVecs; ++v) Store(y + r * kPanelWidth + v * kLanes, acc[r][v]);
  }
}

/// y [R, 64] of a panel whose strips begin at strips[0] and strips[1].
template <typename Format, int R>
void PanelRows(const StripPart& part, const char* const* strips, float* y) {
  constexpr int kColumns = kIntVecs * kLanes;
  LinePrefetch prefetch(part.mode, part.groups * Format::kSteps * kPanelWidth / kColumns);
  for (int s = 0; s < 2; ++s) {
    for (int c = 0; c < kStripWidth; c += kColumns) {
      StripColumns<Format, R>(part, strips[s], c, prefetch, y + s * kStripWidth + c);
    }
  }
}

template <typename Format>
void PanelOfRows(int rows, const StripPart& part, const char* const* strips, float* y) {
  switch (rows) {
    case 1:
      return PanelRows<Format, 1>(part, strips, y);
    case 2:
      return PanelRows<Format, 2>(part, strips, y);
    case 3:
      if constexpr (kIntBlockRows > 2) return PanelRows<Format, 3>(part, strips, y);
      break;
    case 4:
      if constexpr (kIntBlockRows > 2) return PanelRows<Format, 4>(part, strips, y);
      break;
    case 5:
      if constexpr (kIntBlockRows > 2) return PanelRows<Format, 5>(part, strips, y);
      break;
    case 6:
      if constexpr (kIntBlockRows > 2) return PanelRows<Format, 6>(part, strips, y);
      break;
  }
}

template <typename Format>
void RunIntGemm(const GemmTask& task) {
  static_assert(kBlockK % kGroup == 0);
  const int64_t row_bytes = QuantizedRowBytes(task.k), groups = NumGroups(task.k);
  const char* panel = static_cast<const char*>(task.panel);
  const auto compute = [&](const TilePart& tile) {
    const int64_t first = tile.k_begin / kGroup;
    QuantizedRows x;
    x.info_distance = (groups - first) * kGroup + first * int64_t{sizeof(GroupInfo)};
    for (int r = 0; r < tile.rows; ++r) {
      const int64_t row = task.x_row == nullptr ? tile.row + r : task.x_row[tile.row + r];
      x.values[r] = static_cast<const char*>(task.x) + row * row_bytes + first * kGroup;
    }
    const char* const strips[] = {panel + first * Format::kGroupBytes,
                                  panel + (groups + first) * Format::kGroupBytes};
    PanelOfRows<Format>(tile.rows, {&x, NumGroups(tile.k_end) - first, tile.mode}, strips, tile.y);
  };
  ForEachTile(task, kIntBlockRows, compute,
              [&](const float* y, int64_t row) { FinishRow<uint16_t>(y, task, row); });
}

// 2^-121: of less, 127 / magnitude would be infinite. Groups below are quantised as if this were
// their largest magnitude.
constexpr uint16_t kLeastMagnitude = 0x0300;

inline void QuantizeRow(const uint16_t* x, int64_t k, int32_t weight_offset, void* out) {
  const int64_t groups = NumGroups(k);
  int8_t* values = static_cast<int8_t*>(out);
  for (int64_t g = 0; g < groups; ++g) {
    const uint16_t* group = x + g * kGroup;
    uint16_t last[kGroup] = {};
    if (k - g * kGroup < kGroup) {
      memcpy(last, group, static_cast<size_t>(k - g * kGroup) * sizeof(*group));
      group = last;
    }
    // Magnitudes of bf16 are ordered like their bits; infinity and NaN are the largest.
    const uint16_t largest = LargestMagnitude(group);
    GroupInfo info{};
    if (largest > 0 && largest < 0x7f80) {
      const float magnitude = ToFloat(largest < kLeastMagnitude ? kLeastMagnitude : largest);
      info.scale = magnitude / 127.0f;
      info.minus_offset =
          -weight_offset * ScaleToInt8(group, 127.0f / magnitude, values + g * kGroup);
    } else {
      info.scale = largest == 0 ? 0.0f : __builtin_nanf("");
      memset(values + g * kGroup, 0, kGroup);
    }
    memcpy(values + groups * kGroup + g * sizeof(info), &info, sizeof(info));
  }
}

}  // namespace
}  // namespace moed::kernels::cpu
