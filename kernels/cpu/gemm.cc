#include <algorithm>
#include <vector>

#include "config/base/check.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/quantized_rows.h"

namespace moed::kernels::cpu {
namespace {

using GemmFunction = void (*)(const GemmTask&);

GemmFunction FunctionFor(const CpuContext& context, const PackedPanels& panels) {
  const GemmKernels& gemm = *context.kernels().gemm;
  switch (panels.format) {
    case PanelFormat::kInt8:
      return context.kernels().int_gemm->int8;
    case PanelFormat::kInt4:
      return context.kernels().int_gemm->int4;
    case PanelFormat::kBf16:
      return context.activation_dtype() == DType::kBF16 ? gemm.bf16 : gemm.f32_bf16;
    case PanelFormat::kF32:
      return gemm.f32_f32;
  }
  return nullptr;
}

/// The rows of x as the kernels for `panels` want them.
const void* RowsFor(CpuContext& context, const TensorView& x, const PackedPanels& panels) {
  const int32_t offset = WeightOffset(panels.format);
  return offset == 0 ? x.data : QuantizeRows(context, x, offset);
}

/// Some products of one shape: rows [offsets[m], offsets[m + 1]) times matrix m, for each m.
struct GroupedGemm {
  const PackedPanels* panels = nullptr;
  const PackedLinear* linear = nullptr;  // for its bias, or null
  std::span<const int32_t> offsets;
  int64_t features_per_panel = kPanelWidth;
  int64_t num_features = 0;  // of one matrix, in columns of out
  GemmTask task;             // what all tasks have in common
};

/// A grouped GEMM cut into tasks: (matrix, panel, chunk of rows) in that order, so that a panel's
/// tasks are neighbours and find it in cache.
class GemmTasks {
 public:
  explicit GemmTasks(const GroupedGemm& gemm) : gemm_(gemm), first_task_(gemm.offsets.size(), 0) {
    for (size_t m = 0; m + 1 < gemm.offsets.size(); ++m) {
      MOED_CHECK(Rows(m) >= 0);
      first_task_[m + 1] = first_task_[m] + Chunks(m) * gemm.panels->panels_per_matrix;
    }
  }

  int64_t size() const { return first_task_.back(); }

  GemmTask At(int64_t i) const {
    const Place place = PlaceOf(i);
    const int64_t rows = Rows(place.matrix), chunks = Chunks(place.matrix);
    GemmTask task = gemm_.task;
    task.row_begin = gemm_.offsets[place.matrix] + rows * place.chunk / chunks;
    task.row_end = gemm_.offsets[place.matrix] + rows * (place.chunk + 1) / chunks;
    task.panel = gemm_.panels->Panel(place.matrix, place.panel);
    task.bias = gemm_.linear == nullptr ? nullptr : gemm_.linear->PanelBias(place.panel);
    task.out_col = place.panel * gemm_.features_per_panel;
    task.num_cols = static_cast<int32_t>(
        std::min<int64_t>(gemm_.features_per_panel, gemm_.num_features - task.out_col));
    // The chunks of a panel fetch the next panel together.
    const int64_t next = i - place.chunk + chunks;
    if (next < size()) {
      const Place next_place = PlaceOf(next);
      task.next_bytes = gemm_.panels->panel_bytes / chunks;
      task.next =
          gemm_.panels->Panel(next_place.matrix, next_place.panel) + place.chunk * task.next_bytes;
    }
    return task;
  }

 private:
  struct Place {
    int64_t matrix;
    int64_t panel;
    int64_t chunk;
  };

  int64_t Rows(int64_t m) const { return gemm_.offsets[m + 1] - gemm_.offsets[m]; }
  int64_t Chunks(int64_t m) const { return (Rows(m) + kMaxTaskRows - 1) / kMaxTaskRows; }

  Place PlaceOf(int64_t i) const {
    const auto next = std::upper_bound(first_task_.begin(), first_task_.end(), i);
    const int64_t m = next - first_task_.begin() - 1;
    const int64_t chunks = Chunks(m);
    return {m, (i - first_task_[m]) / chunks, (i - first_task_[m]) % chunks};
  }

  const GroupedGemm& gemm_;
  std::vector<int64_t> first_task_;  // [matrices + 1]
};

/// Which thread takes which task cannot matter: every output element belongs to one.
void Run(CpuContext& context, const GroupedGemm& gemm) {
  const GemmTasks tasks(gemm);
  const GemmFunction run = FunctionFor(context, *gemm.panels);
  context.pool().ParallelFor(tasks.size(), [&](int64_t i, int) { run(tasks.At(i)); });
}

}  // namespace

void Linear(CpuContext& context, const LinearParams& params) {
  const auto& weights = static_cast<const PackedLinear&>(*params.weights);
  const int32_t offsets[] = {0, static_cast<int32_t>(params.x.rows)};
  Run(context, {.panels = &weights.panels(),
                .linear = &weights,
                .offsets = offsets,
                .features_per_panel = kPanelWidth,
                .num_features = weights.out_features(),
                .task = {.x = RowsFor(context, params.x, weights.panels()),
                         .k = weights.in_features(),
                         .epilogue = params.accumulate ? Epilogue::kAccumulate : Epilogue::kStore,
                         .out = params.out.data,
                         .out_stride = params.out.cols,
                         .scale = params.scale}});
}

void ExpertsGateUp(CpuContext& context, const ExpertsGateUpParams& params) {
  const auto& experts = static_cast<const PackedExperts&>(*params.experts);
  Run(context, {.panels = &experts.gate_up(),
                .offsets = params.expert_offsets,
                .features_per_panel = kGateWidth,
                .num_features = experts.intermediate_size(),
                .task = {.x = RowsFor(context, params.x, experts.gate_up()),
                         .x_row = params.x_row,
                         .k = experts.hidden_size(),
                         .epilogue = Epilogue::kSwiGlu,
                         .out = params.out.data,
                         .out_stride = params.out.cols}});
}

void ExpertsDown(CpuContext& context, const ExpertsDownParams& params) {
  const auto& experts = static_cast<const PackedExperts&>(*params.experts);
  Run(context, {.panels = &experts.down(),
                .offsets = params.expert_offsets,
                .features_per_panel = kPanelWidth,
                .num_features = experts.hidden_size(),
                .task = {.x = RowsFor(context, params.x, experts.down()),
                         .k = experts.intermediate_size(),
                         .epilogue = Epilogue::kRound,
                         .out = params.out.data,
                         .out_stride = params.out.cols,
                         .out_row = params.out_row}});
}

}  // namespace moed::kernels::cpu
