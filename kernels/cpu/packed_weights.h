#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "kernels/cpu/aligned_buffer.h"
#include "kernels/cpu/cpu_context.h"
#include "kernels/cpu/panel_packing.h"
#include "kernels/params.h"

namespace moed::kernels::cpu {

/// Equal matrices [num_features, k] as panels of 64 features, one layout for all instruction sets.
///
/// See kernel_table.h for the layouts of a panel; what is beyond k and the last feature is zero.
/// Immutable once packed.
struct PackedPanels {
  PanelFormat format = PanelFormat::kBf16;
  int64_t k = 0;
  int64_t panels_per_matrix = 0;
  int64_t panel_bytes = 0;
  int64_t size_bytes = 0;
  AlignedMemory memory;

  const char* Panel(int64_t matrix, int64_t panel) const {
    return static_cast<const char*>(memory.get()) +
           (matrix * panels_per_matrix + panel) * panel_bytes;
  }
};

/// LinearWeights of the CPU backend.
class PackedLinear : public LinearWeights {
 public:
  PackedLinear(int64_t out_features, PackedPanels panels, AlignedMemory bias)
      : out_features_(out_features), panels_(std::move(panels)), bias_(std::move(bias)) {}

  int64_t out_features() const override { return out_features_; }
  int64_t in_features() const override { return panels_.k; }
  int64_t size_bytes() const override { return panels_.size_bytes; }
  const PackedPanels& panels() const { return panels_; }
  /// [64] of the panel, or null.
  const float* PanelBias(int64_t panel) const {
    const float* bias = static_cast<const float*>(bias_.get());
    return bias == nullptr ? nullptr : bias + panel * kPanelWidth;
  }
  /// out[0..in_features) = scale * row `feature`.
  void CopyRow(int64_t feature, float scale, float* out) const;

 private:
  const int64_t out_features_;
  const PackedPanels panels_;
  const AlignedMemory bias_;  // f32, padded to whole panels
};

/// ExpertWeights of the CPU backend: panel p of gate_up holds the rows [32 p, 32 p + 32) of gate,
/// then those of up.
class PackedExperts : public ExpertWeights {
 public:
  PackedExperts(int64_t num_experts, PackedPanels gate_up, PackedPanels down)
      : num_experts_(num_experts), gate_up_(std::move(gate_up)), down_(std::move(down)) {}

  int64_t num_experts() const override { return num_experts_; }
  int64_t hidden_size() const override { return gate_up_.k; }
  int64_t intermediate_size() const override { return down_.k; }
  int64_t size_bytes() const override { return gate_up_.size_bytes + down_.size_bytes; }
  const PackedPanels& gate_up() const { return gate_up_; }
  const PackedPanels& down() const { return down_; }

 private:
  const int64_t num_experts_;
  const PackedPanels gate_up_;
  const PackedPanels down_;
};

/// See Backend::LoadLinear. INVALID_ARGUMENT for sources that do not fit together,
/// RESOURCE_EXHAUSTED when memory is short.
absl::StatusOr<std::unique_ptr<LinearWeights>> PackLinear(CpuContext& context,
                                                          std::span<const HostMatrix> stacked,
                                                          std::span<const float> bias,
                                                          WeightFormat format);

/// See Backend::LoadExperts. Errors as PackLinear.
absl::StatusOr<std::unique_ptr<ExpertWeights>> PackExperts(CpuContext& context,
                                                           std::span<const ExpertSource> experts,
                                                           WeightFormat format);

}  // namespace moed::kernels::cpu
