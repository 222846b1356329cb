#pragma once

#include <cstdint>

#include "kernels/cpu/kernel_table.h"

/// PackKernels over the vectors of the simd_*.h and simd_pack_*.h included before. A lane is a
/// feature throughout, so that there is one transposition per element, on the way in, and every
/// instruction set does the same arithmetic.
namespace moed::kernels::cpu {
namespace {

constexpr int kBlockWords = 16;  // of 4 bytes
// Rows are read kLanes at a time, in runs of about 2 KB: long enough for memory, short enough that
// what is written by one vector of a line is still in the cache for the next one.
constexpr int64_t kRunWords = 512;
constexpr int64_t kRunGroups = 32;

inline int64_t AtMost(int64_t a, int64_t limit) { return a < limit ? a : limit; }

/// kLanes rows of a panel, words [begin, end).
inline void PackWordRun(const char* const* rows, int64_t begin, int64_t end, char* column) {
  for (int64_t first = begin; first < end; first += kBlockWords) {
    IntVec words[kBlockWords];
    TransposeWords(rows, 4 * first, words);
    const int count = static_cast<int>(AtMost(kBlockWords, end - first));
    char* out = column + 4 * first * kPanelWidth;
    for (int i = 0; i < count; ++i) StreamInts(out + 4 * i * kPanelWidth, words[i]);
  }
}

void PackWords(const char* const* rows, int64_t num_words, void* panel) {
  char* out = static_cast<char*>(panel);
  for (int64_t begin = 0; begin < num_words; begin += kRunWords) {
    const int64_t end = AtMost(begin + kRunWords, num_words);
    for (int r = 0; r < kPanelWidth; r += kLanes) PackWordRun(rows + r, begin, end, out + 4 * r);
  }
  FinishStreams();
}

/// Types of weights as they come.
struct Bf16Source {
  static constexpr int64_t kGroupBytes = 2 * kGroup;
  /// w[i][r] = element i of the group at rows[r] + offset.
  static void LoadGroup(const char* const* rows, int64_t offset, Vec* w) {
    IntVec pairs[kBlockWords];
    TransposeWords(rows, offset, pairs);
    for (int i = 0; i < kBlockWords; ++i) {
      w[2 * i] = AsFloats(ShiftLeft<16>(pairs[i]));
      w[2 * i + 1] = AsFloats(SelectBits(0xffff0000u, pairs[i], SetInt(0)));
    }
  }
};
struct F32Source {
  static constexpr int64_t kGroupBytes = 4 * kGroup;
  static void LoadGroup(const char* const* rows, int64_t offset, Vec* w) {
    for (int half = 0; half < 2; ++half) {
      IntVec words[kBlockWords];
      TransposeWords(rows, offset + half * kGroupBytes / 2, words);
      for (int i = 0; i < kBlockWords; ++i) w[half * kBlockWords + i] = AsFloats(words[i]);
    }
  }
};

inline Vec NanIfNotFinite(IntVec magnitude, Vec value) {
  return SelectGreater(magnitude, SetInt(0x7f7fffffu), Set(__builtin_nanf("")), value);
}

/// Four vectors of integers as bytes: the lowest of each.
inline IntVec JoinBytes(const IntVec* q) {
  const IntVec two = SelectBits(0xffu, q[0], ShiftLeft<8>(q[1]));
  const IntVec three = SelectBits(0xffffu, two, ShiftLeft<16>(q[2]));
  return SelectBits(0xffffffu, three, ShiftLeft<24>(q[3]));
}

struct Int8Target {
  static constexpr int64_t kBytes = kInt8GroupBytes;
  static constexpr float kLowest = -127.0f, kHighest = 127.0f;
  static Vec WantedScale(const Vec* w) {
    IntVec largest = SetInt(0);
    for (int i = 0; i < kGroup; ++i) largest = MaxInts(largest, Magnitude(w[i]));
    return Div(NanIfNotFinite(largest, AsFloats(largest)), Set(127.0f));
  }
  /// Quads of q, a vector each, as bytes q + 128.
  static void StoreValues(const IntVec* quads, char* out) {
    for (int i = 0; i < kGroup / 4; ++i) {
      StreamInts(out + i * 4 * kStripWidth, Xor(quads[i], SetInt(0x80808080u)));
    }
  }
};
struct Int4Target {
  static constexpr int64_t kBytes = kInt4GroupBytes;
  static constexpr float kLowest = -8.0f, kHighest = 7.0f;
  /// From the first element of the largest magnitude.
  static Vec WantedScale(const Vec* w) {
    IntVec largest = SetInt(0);
    Vec extreme = Zero();
    for (int i = 0; i < kGroup; ++i) {
      const IntVec magnitude = Magnitude(w[i]);
      extreme = SelectGreater(magnitude, largest, w[i], extreme);
      largest = MaxInts(largest, magnitude);
    }
    return Div(NanIfNotFinite(largest, extreme), Set(-8.0f));
  }
  /// As nibbles q + 8.
  static void StoreValues(const IntVec* quads, char* out) {
    for (int i = 0; i < kGroup / 8; ++i) {
      const IntVec both = SelectBits(0x0f0f0f0fu, quads[2 * i], ShiftLeft<4>(quads[2 * i + 1]));
      StreamInts(out + i * 4 * kStripWidth, Xor(both, SetInt(0x88888888u)));
    }
  }
};

// Bits of 2^-128: up to it, 1 / scale is infinite.
constexpr uint32_t kLargestScaleOfZeros = 0x00200000u;

/// kLanes features of a group into their columns of it. An element that is not finite, as all
/// elements of a group whose scale is at most 2^-128, becomes q = 0.
template <typename Source, typename Target>
inline void PackGroupColumns(const char* const* rows, int64_t offset, uint16_t* scales,
                             char* values) {
  Vec w[kGroup];
  Source::LoadGroup(rows, offset, w);
  Store(scales, Target::WantedScale(w));
  const Vec scale = Load(scales);
  const Vec inverse =
      SelectGreater(Magnitude(scale), SetInt(kLargestScaleOfZeros), Div(Set(1.0f), scale), Zero());
  const Vec lowest = Set(Target::kLowest), highest = Set(Target::kHighest);
  IntVec quads[kGroup / 4];
  for (int i = 0; i < kGroup / 4; ++i) {
    IntVec q[4];
    for (int j = 0; j < 4; ++j) {  // Max and Min give their second argument when it is NaN
      q[j] = RoundToInts(Max(lowest, Min(highest, Mul(w[4 * i + j], inverse))));
    }
    quads[i] = JoinBytes(q);
  }
  Target::StoreValues(quads, values);
}

template <typename Source, typename Target>
void PackGroups(const char* const* rows, int64_t num_groups, void* strip) {
  for (int64_t begin = 0; begin < num_groups; begin += kRunGroups) {
    const int64_t end = AtMost(begin + kRunGroups, num_groups);
    for (int r = 0; r < kStripWidth; r += kLanes) {
      for (int64_t group = begin; group < end; ++group) {
        char* out = static_cast<char*>(strip) + group * Target::kBytes;
        PackGroupColumns<Source, Target>(rows + r, group * Source::kGroupBytes,
                                         reinterpret_cast<uint16_t*>(out) + r,
                                         out + kStripScaleBytes + 4 * r);
      }
    }
  }
  FinishStreams();
}

constexpr PackKernels kPackKernels = {
    .words = PackWords,
    .int8_bf16 = PackGroups<Bf16Source, Int8Target>,
    .int8_f32 = PackGroups<F32Source, Int8Target>,
    .int4_bf16 = PackGroups<Bf16Source, Int4Target>,
    .int4_f32 = PackGroups<F32Source, Int4Target>,
};

}  // namespace
}  // namespace moed::kernels::cpu
