#include "kernels/cpu/packed_weights.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "config/base/checked_math.h"
#include "config/base/status_macros.h"
#include "kernels/host_weights.h"

namespace moed::kernels::cpu {
namespace {

constexpr uint64_t kMaxBytes = uint64_t{1} << 46;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

absl::Status CheckFormat(const CpuContext& context, WeightFormat format) {
  if (format == WeightFormat::kStored || context.activation_dtype() == DType::kBF16) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError("packing weights: integer formats need bf16 activations");
}

/// A bf16 backend rounds to bf16; an f32 one keeps what is stored, exactly.
PanelFormat FormatOfPanels(const CpuContext& context, WeightFormat format, bool all_bf16) {
  if (format == WeightFormat::kInt8) return PanelFormat::kInt8;
  if (format == WeightFormat::kInt4) return PanelFormat::kInt4;
  return context.activation_dtype() == DType::kBF16 || all_bf16 ? PanelFormat::kBf16
                                                                : PanelFormat::kF32;
}

struct PanelShape {
  PanelFormat format;
  int64_t k;
  int64_t num_matrices;
  int64_t panels_per_matrix;
};

absl::StatusOr<PackedPanels> AllocatePanels(const PanelShape& shape) {
  PackedPanels p{
      .format = shape.format, .k = shape.k, .panels_per_matrix = shape.panels_per_matrix};
  p.panel_bytes = PanelBytes(shape.format, shape.k);
  const auto panels = CheckedMul(shape.num_matrices, shape.panels_per_matrix);
  const auto bytes = panels ? CheckedMul(*panels, p.panel_bytes) : std::nullopt;
  if (bytes && *bytes <= kMaxBytes) {
    p.size_bytes = static_cast<int64_t>(*bytes);
    p.memory = AllocateAligned(p.size_bytes);
  }
  if (p.memory == nullptr) {
    return absl::ResourceExhaustedError(
        absl::StrCat("packing weights: no memory for ", shape.num_matrices, " x ",
                     shape.panels_per_matrix, " panels of ", p.panel_bytes, " bytes"));
  }
  return p;
}

/// Fills all panels; rows_of_panel(matrix, panel, rows[64]) names the sources.
template <typename RowsOfPanel>
void PackPanels(CpuContext& context, int64_t num_matrices, PackedPanels& p,
                const RowsOfPanel& rows_of_panel) {
  context.pool().ParallelFor(num_matrices * p.panels_per_matrix, [&](int64_t i, int) {
    SourceRow rows[kPanelWidth];
    rows_of_panel(i / p.panels_per_matrix, i % p.panels_per_matrix, rows);
    PackPanel(context.kernels(), {.format = p.format,
                                  .rows = rows,
                                  .k = p.k,
                                  .panel = static_cast<char*>(p.memory.get()) + i * p.panel_bytes});
  });
}

absl::StatusOr<AlignedMemory> PackBias(std::span<const float> bias, int64_t out_features) {
  if (bias.empty()) return nullptr;
  if (static_cast<int64_t>(bias.size()) != out_features) {
    return absl::InvalidArgumentError(
        absl::StrCat("packing a bias: expected ", out_features, " values, got ", bias.size()));
  }
  const int64_t bytes = CeilDiv(out_features, kPanelWidth) * kPanelWidth * 4;
  AlignedMemory memory = AllocateAligned(bytes);
  if (memory == nullptr) return absl::ResourceExhaustedError("packing a bias: no memory");
  std::memset(memory.get(), 0, bytes);
  std::memcpy(memory.get(), bias.data(), bias.size_bytes());
  return memory;
}

absl::StatusOr<PackedPanels> PackGateUp(CpuContext& context, std::span<const ExpertSource> experts,
                                        WeightFormat format) {
  const int64_t num_experts = static_cast<int64_t>(experts.size());
  const int64_t width = experts[0].gate.rows;
  const bool all_bf16 = std::all_of(experts.begin(), experts.end(), [](const ExpertSource& e) {
    return e.gate.dtype == DType::kBF16 && e.up.dtype == DType::kBF16;
  });
  MOED_ASSIGN_OR_RETURN(PackedPanels panels,
                        AllocatePanels({.format = FormatOfPanels(context, format, all_bf16),
                                        .k = experts[0].gate.cols,
                                        .num_matrices = num_experts,
                                        .panels_per_matrix = CeilDiv(width, kGateWidth)}));
  PackPanels(context, num_experts, panels, [&](int64_t e, int64_t panel, SourceRow* rows) {
    for (int c = 0; c < kGateWidth; ++c) {
      const int64_t row = panel * kGateWidth + c;
      if (row >= width) continue;
      rows[c] = RowOf(experts[e].gate, row);
      rows[kGateWidth + c] = RowOf(experts[e].up, row);
    }
  });
  return panels;
}

absl::StatusOr<PackedPanels> PackDown(CpuContext& context, std::span<const ExpertSource> experts,
                                      WeightFormat format) {
  const int64_t num_experts = static_cast<int64_t>(experts.size());
  const int64_t width = experts[0].down.rows;
  const bool all_bf16 = std::all_of(experts.begin(), experts.end(), [](const ExpertSource& e) {
    return e.down.dtype == DType::kBF16;
  });
  MOED_ASSIGN_OR_RETURN(PackedPanels panels,
                        AllocatePanels({.format = FormatOfPanels(context, format, all_bf16),
                                        .k = experts[0].down.cols,
                                        .num_matrices = num_experts,
                                        .panels_per_matrix = CeilDiv(width, kPanelWidth)}));
  PackPanels(context, num_experts, panels, [&](int64_t e, int64_t panel, SourceRow* rows) {
    for (int c = 0; c < kPanelWidth; ++c) {
      const int64_t row = panel * kPanelWidth + c;
      if (row < width) rows[c] = RowOf(experts[e].down, row);
    }
  });
  return panels;
}

}  // namespace

void PackedLinear::CopyRow(int64_t feature, float scale, float* out) const {
  UnpackPanelColumn({.format = panels_.format,
                     .panel = panels_.Panel(0, feature / kPanelWidth),
                     .k = panels_.k,
                     .c = static_cast<int>(feature % kPanelWidth),
                     .scale = scale},
                    out);
}

absl::StatusOr<std::unique_ptr<LinearWeights>> PackLinear(CpuContext& context,
                                                          std::span<const HostMatrix> stacked,
                                                          std::span<const float> bias,
                                                          WeightFormat format) {
  MOED_RETURN_IF_ERROR(CheckFormat(context, format));
  MOED_RETURN_IF_ERROR(CheckSources(stacked));
  std::vector<SourceRow> sources;
  bool all_bf16 = true;
  for (const HostMatrix& m : stacked) {
    all_bf16 = all_bf16 && m.dtype == DType::kBF16;
    for (int64_t row = 0; row < m.rows; ++row) sources.push_back(RowOf(m, row));
  }
  const int64_t out_features = static_cast<int64_t>(sources.size());
  MOED_ASSIGN_OR_RETURN(AlignedMemory packed_bias, PackBias(bias, out_features));
  MOED_ASSIGN_OR_RETURN(PackedPanels panels,
                        AllocatePanels({.format = FormatOfPanels(context, format, all_bf16),
                                        .k = stacked[0].cols,
                                        .num_matrices = 1,
                                        .panels_per_matrix = CeilDiv(out_features, kPanelWidth)}));
  PackPanels(context, 1, panels, [&](int64_t, int64_t panel, SourceRow* rows) {
    const int64_t begin = panel * kPanelWidth;
    const int64_t end = std::min(begin + kPanelWidth, out_features);
    std::copy(sources.begin() + begin, sources.begin() + end, rows);
  });
  return std::make_unique<PackedLinear>(out_features, std::move(panels), std::move(packed_bias));
}

absl::StatusOr<std::unique_ptr<ExpertWeights>> PackExperts(CpuContext& context,
                                                           std::span<const ExpertSource> experts,
                                                           WeightFormat format) {
  MOED_RETURN_IF_ERROR(CheckFormat(context, format));
  MOED_RETURN_IF_ERROR(CheckSources(experts));
  MOED_ASSIGN_OR_RETURN(PackedPanels gate_up, PackGateUp(context, experts, format));
  MOED_ASSIGN_OR_RETURN(PackedPanels down, PackDown(context, experts, format));
  return std::make_unique<PackedExperts>(experts.size(), std::move(gate_up), std::move(down));
}

}  // namespace moed::kernels::cpu
