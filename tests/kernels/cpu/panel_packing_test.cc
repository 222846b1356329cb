#include "kernels/cpu/panel_packing.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/aligned_buffer.h"
#include "kernels/cpu/instruction_sets.h"
#include "kernels/float_convert.h"

namespace moed::kernels::cpu {
namespace {

constexpr PanelFormat kFormats[] = {PanelFormat::kBf16, PanelFormat::kF32, PanelFormat::kInt8,
                                    PanelFormat::kInt4};

// The layouts of kernel_table.h, one element at a time.

float ElementOf(const SourceRow& row, int64_t i) {
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

// A NaN that is stored as bf16 stays as it is; FloatToBf16 would make it quiet.
uint16_t Bf16Of(const SourceRow& row, int64_t i) {
  if (row.data == nullptr || row.dtype != DType::kBF16) return FloatToBf16(ElementOf(row, i));
  uint16_t bits;
  std::memcpy(&bits, row.data + 2 * i, sizeof(bits));
  return bits;
}

// The element of largest magnitude that comes first; NaN if one is infinite or NaN.
float Extreme(const float* w) {
  float extreme = 0.0f;
  for (int i = 0; i < kGroup; ++i) {
    if (!std::isfinite(w[i])) return std::numeric_limits<float>::quiet_NaN();
    if (std::fabs(w[i]) > std::fabs(extreme)) extreme = w[i];
  }
  return extreme;
}

struct Group {
  uint16_t scale;
  int q[kGroup];
};

Group Quantize(PanelFormat format, const float* w) {
  const bool is_int8 = format == PanelFormat::kInt8;
  const float extreme = Extreme(w);
  Group group;
  group.scale = FloatToBf16(is_int8 ? std::fabs(extreme) / 127.0f : extreme / -8.0f);
  const float scale = Bf16ToFloat(group.scale);
  const float lowest = is_int8 ? -127.0f : -8.0f, highest = is_int8 ? 127.0f : 7.0f;
  for (int i = 0; i < kGroup; ++i) {
    group.q[i] = 0;
    const float inverse = 1.0f / scale;
    if (!std::isfinite(scale) || !std::isfinite(inverse)) continue;
    const float q = std::nearbyint(w[i] * inverse);
    if (!std::isnan(q)) group.q[i] = static_cast<int>(std::clamp(q, lowest, highest));
  }
  return group;
}

void ExpectedIntegerPanel(PanelFormat format, const SourceRow* rows, int64_t k,
                          std::vector<char>& panel) {
  const bool is_int8 = format == PanelFormat::kInt8;
  const int64_t group_bytes = is_int8 ? kInt8GroupBytes : kInt4GroupBytes;
  for (int c = 0; c < kPanelWidth; ++c) {
    for (int64_t g = 0; g < NumGroups(k); ++g) {
      float w[kGroup] = {};
      for (int64_t i = g * kGroup; i < std::min(k, (g + 1) * kGroup); ++i) {
        w[i % kGroup] = ElementOf(rows[c], i);
      }
      const Group group = Quantize(format, w);
      char* out = panel.data() + (c / kStripWidth * NumGroups(k) + g) * group_bytes;
      std::memcpy(out + 2 * (c % kStripWidth), &group.scale, sizeof(group.scale));
      char* column = out + kStripScaleBytes + 4 * (c % kStripWidth);
      for (int i = 0; i < kGroup; ++i) {
        if (is_int8) {
          column[i / 4 * 4 * kStripWidth + i % 4] = static_cast<char>(group.q[i] + 128);
        } else {
          char& byte = column[i / 8 * 4 * kStripWidth + i % 4];
          byte = static_cast<char>(byte | (group.q[i] + 8) << (i % 8 / 4 * 4));
        }
      }
    }
  }
}

std::vector<char> ExpectedPanel(PanelFormat format, const SourceRow* rows, int64_t k) {
  std::vector<char> panel(PanelBytes(format, k));
  if (format == PanelFormat::kInt8 || format == PanelFormat::kInt4) {
    ExpectedIntegerPanel(format, rows, k, panel);
    return panel;
  }
  for (int c = 0; c < kPanelWidth; ++c) {
    for (int64_t i = 0; i < k; ++i) {
      const float f32 = ElementOf(rows[c], i);
      const uint16_t bf16 = Bf16Of(rows[c], i);
      if (format == PanelFormat::kF32) {
        std::memcpy(panel.data() + 4 * (i * kPanelWidth + c), &f32, sizeof(f32));
      } else {
        std::memcpy(panel.data() + 4 * (i / 2 * kPanelWidth + c) + 2 * (i % 2), &bf16,
                    sizeof(bf16));
      }
    }
  }
  return panel;
}

// 64 rows of k elements of one type, at an odd address, with a stride of their own.
class Source {
 public:
  Source(DType dtype, int64_t k) : dtype_(dtype), stride_((k + 3) * BytesOf(dtype)) {
    bytes_.resize(1 + kPanelWidth * stride_);
  }

  // Rounds to the type of the source.
  void Set(int c, int64_t i, float x) {
    char* out = bytes_.data() + 1 + c * stride_ + i * BytesOf(dtype_);
    const uint16_t half = dtype_ == DType::kBF16 ? FloatToBf16(x) : static_cast<uint16_t>(i * c);
    if (dtype_ == DType::kF32) {
      std::memcpy(out, &x, sizeof(x));
    } else {
      std::memcpy(out, &half, sizeof(half));
    }
  }

  // The rows from `num_rows` on are those that a matrix lacks.
  std::vector<SourceRow> Rows(int num_rows) const {
    std::vector<SourceRow> rows(kPanelWidth);
    for (int c = 0; c < num_rows; ++c) rows[c] = {bytes_.data() + 1 + c * stride_, dtype_};
    return rows;
  }

 private:
  static int64_t BytesOf(DType dtype) { return dtype == DType::kF32 ? 4 : 2; }

  const DType dtype_;
  const int64_t stride_;
  std::vector<char> bytes_;
};

std::string Describe(const KernelTable& set, PanelFormat format, int64_t k) {
  return std::string(set.name) + ", format " + std::to_string(static_cast<int>(format)) +
         ", k = " + std::to_string(k);
}

constexpr int64_t kBeyond = 64;

// The bytes of a panel, and as many beyond it, which were 'x'.
std::vector<char> Pack(const KernelTable& set, PackPanelParams params) {
  const int64_t bytes = PanelBytes(params.format, params.k) + kBeyond;
  const AlignedMemory memory = AllocateAligned(bytes);
  params.panel = static_cast<char*>(memory.get());
  std::memset(params.panel, 'x', bytes);
  PackPanel(set, params);
  return std::vector<char>(params.panel, params.panel + bytes);
}

// The panel, and that nothing beyond it was written.
void ExpectAllPackTheSame(const std::vector<SourceRow>& rows, int64_t k) {
  for (const PanelFormat format : kFormats) {
    const std::vector<char> expected = ExpectedPanel(format, rows.data(), k);
    for (const KernelTable& set : AvailableInstructionSets()) {
      const std::vector<char> panel = Pack(set, {.format = format, .rows = rows.data(), .k = k});
      const auto end = panel.end() - kBeyond;
      EXPECT_EQ(std::string(end, panel.end()), std::string(kBeyond, 'x'))
          << Describe(set, format, k);
      EXPECT_TRUE(std::vector<char>(panel.begin(), end) == expected) << Describe(set, format, k);
    }
  }
}

TEST(PanelPackingTest, EveryInstructionSetPacksTheDefinedBytes) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
    for (const int64_t k : {1, 2, 31, 32, 33, 64, 127, 128, 129, 160, 511, 1100, 2080}) {
      Source source(dtype, k);
      for (int c = 0; c < kPanelWidth; ++c) {
        for (int64_t i = 0; i < k; ++i) source.Set(c, i, 0.03f * normal(random));
      }
      for (const int num_rows : {1, 40, 64}) ExpectAllPackTheSame(source.Rows(num_rows), k);
    }
  }
}

// Any bits at all: infinities and NaNs of every kind, numbers from denormal to huge.
TEST(PanelPackingTest, EveryBitPatternIsPackedTheSame) {
  std::mt19937 random(2);
  constexpr int64_t k = 160;
  for (const DType dtype : {DType::kBF16, DType::kF32}) {
    Source source(dtype, k);
    for (int c = 0; c < kPanelWidth; ++c) {
      for (int64_t i = 0; i < k; ++i) {
        source.Set(c, i, std::bit_cast<float>(static_cast<uint32_t>(random())));
      }
    }
    ExpectAllPackTheSame(source.Rows(kPanelWidth), k);
  }
}

// One binary exponent for each group, so that every scale from 0 over denormals to the largest
// occurs, and few bits, so that ties of rounding and of magnitude occur.
TEST(PanelPackingTest, GroupsOfEveryMagnitudeArePackedTheSame) {
  std::mt19937 random(3);
  constexpr int64_t k = 5 * kGroup;
  for (const DType dtype : {DType::kBF16, DType::kF32}) {
    Source source(dtype, k);
    for (int c = 0; c < kPanelWidth; ++c) {
      for (int64_t i = 0; i < k; ++i) {
        const int exponent = static_cast<int>(c * 5 + i / kGroup) - 160;
        const float bits = static_cast<float>(static_cast<int>(random() % 31) - 15);
        source.Set(c, i, std::ldexp(bits, std::min(exponent, 124)));
      }
    }
    ExpectAllPackTheSame(source.Rows(kPanelWidth), k);
  }
}

TEST(PanelPackingTest, ZerosOfBothSignsMakeGroupsOfZeros) {
  constexpr int64_t k = 2 * kGroup;
  Source source(DType::kBF16, k);
  for (int c = 0; c < kPanelWidth; ++c) {
    for (int64_t i = 0; i < k; ++i) source.Set(c, i, (c + i) % 3 == 0 ? 0.0f : -0.0f);
  }
  ExpectAllPackTheSame(source.Rows(kPanelWidth), k);
}

TEST(PanelPackingTest, ElementsOfAGroupTooSmallForItsInverseScaleAreZeroNotTheLargest) {
  constexpr int64_t k = kGroup;
  Source source(DType::kF32, k);
  for (int c = 0; c < kPanelWidth; ++c) {
    for (int64_t i = 0; i < k; ++i) {
      source.Set(c, i, std::ldexp(i == 0 ? 1.0f : 0.01f, c % 2 == 0 ? -126 : -100));
    }
  }
  const std::vector<SourceRow> rows = source.Rows(kPanelWidth);
  for (const PanelFormat format : {PanelFormat::kInt8, PanelFormat::kInt4}) {
    for (const KernelTable& set : AvailableInstructionSets()) {
      const std::vector<char> panel = Pack(set, {.format = format, .rows = rows.data(), .k = k});
      for (int c = 0; c < kPanelWidth; ++c) {
        std::vector<float> column(k);
        UnpackPanelColumn({.format = format, .panel = panel.data(), .k = k, .c = c, .scale = 1.0f},
                          column.data());
        for (int64_t i = 0; i < k; ++i) {
          const float step =
              std::fabs(ElementOf(rows[c], 0)) / (format == PanelFormat::kInt8 ? 127 : 8);
          const float error = std::fabs(column[i] - ElementOf(rows[c], i));
          // All of a group of 2^-126 is 0; one of 2^-100 is as good as usual.
          EXPECT_LE(error, c % 2 == 0 ? std::fabs(ElementOf(rows[c], i)) : 0.52f * step)
              << Describe(set, format, k) << ", column " << c << ", element " << i;
        }
      }
    }
  }
}

TEST(PanelPackingTest, RowsOfDifferentTypesMeetInOnePanel) {
  constexpr int64_t k = 96;
  Source bf16(DType::kBF16, k), f32(DType::kF32, k);
  for (int c = 0; c < kPanelWidth; ++c) {
    for (int64_t i = 0; i < k; ++i) {
      bf16.Set(c, i, std::sin(static_cast<float>(c * k + i)));
      f32.Set(c, i, std::cos(static_cast<float>(c * k + i)));
    }
  }
  std::vector<SourceRow> rows = bf16.Rows(kPanelWidth);
  const std::vector<SourceRow> others = f32.Rows(kPanelWidth);
  std::copy(others.begin() + 20, others.end(), rows.begin() + 20);
  ExpectAllPackTheSame(rows, k);
}

TEST(PanelPackingTest, ColumnsComeBackWithinHalfAStepOfTheirScale) {
  constexpr int64_t k = 75;
  Source source(DType::kBF16, k);
  for (int c = 0; c < kPanelWidth; ++c) {
    for (int64_t i = 0; i < k; ++i) source.Set(c, i, std::sin(static_cast<float>(c * k + i)));
  }
  const std::vector<SourceRow> rows = source.Rows(kPanelWidth);
  const KernelTable kernels = AvailableInstructionSets().front();
  for (const PanelFormat format : kFormats) {
    // Half a step, and what the scale loses to bf16; +8 of int4 cannot be said.
    const float tolerance = format == PanelFormat::kInt8   ? 0.51f / 127
                            : format == PanelFormat::kInt4 ? 1.02f / 8
                                                           : 0.0f;
    const std::vector<char> panel = Pack(kernels, {.format = format, .rows = rows.data(), .k = k});
    for (int c = 0; c < kPanelWidth; ++c) {
      std::vector<float> column(k);
      UnpackPanelColumn({.format = format, .panel = panel.data(), .k = k, .c = c, .scale = 2.0f},
                        column.data());
      for (int64_t i = 0; i < k; ++i) {
        ASSERT_NEAR(column[i], 2 * ElementOf(rows[c], i), 2 * tolerance) << c << ", " << i;
      }
    }
  }
}

}  // namespace
}  // namespace moed::kernels::cpu
