#include <algorithm>
#include <vector>

#include "config/base/check.h"
#include "kernels/cpu/ops.h"

namespace moed::kernels::cpu {
namespace {

// Rows of one task: many enough that a panel is read from memory seldom, few enough to share out.
constexpr int64_t kRowsPerTask = 96;

using GemmFunction = void (*)(const GemmTask&);

GemmFunction FunctionFor(const CpuContext& context, const PackedPanels& panels) {
  const GemmKernels& gemm = *context.kernels().gemm;
  if (context.activation_dtype() == DType::kBF16) return gemm.bf16;
  return panels.dtype == DType::kBF16 ? gemm.f32_bf16 : gemm.f32_f32;
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

/// Tasks are (matrix, panel, rows) in that order, so that a panel's tasks are neighbours and find
/// it in cache. Which thread takes which cannot matter: every output element belongs to one task.
void Run(CpuContext& context, const GroupedGemm& gemm) {
  const int64_t num_panels = gemm.panels->panels_per_matrix;
  const size_t num_matrices = gemm.offsets.size() - 1;
  std::vector<int64_t> first_task(num_matrices + 1, 0);
  for (size_t m = 0; m < num_matrices; ++m) {
    const int64_t rows = gemm.offsets[m + 1] - gemm.offsets[m];
    MOED_CHECK(rows >= 0);
    first_task[m + 1] = first_task[m] + (rows + kRowsPerTask - 1) / kRowsPerTask * num_panels;
  }
  const GemmFunction run = FunctionFor(context, *gemm.panels);
  context.pool().ParallelFor(first_task.back(), [&](int64_t i, int) {
    const auto next = std::upper_bound(first_task.begin(), first_task.end(), i);
    const int64_t m = next - first_task.begin() - 1;
    const int64_t chunks = (first_task[m + 1] - first_task[m]) / num_panels;
    const int64_t panel = (i - first_task[m]) / chunks;
    const int64_t chunk = (i - first_task[m]) % chunks;
    GemmTask task = gemm.task;
    task.row_begin = gemm.offsets[m] + chunk * kRowsPerTask;
    task.row_end = std::min<int64_t>(task.row_begin + kRowsPerTask, gemm.offsets[m + 1]);
    task.panel = gemm.panels->Panel(m, panel);
    task.bias = gemm.linear == nullptr ? nullptr : gemm.linear->PanelBias(panel);
    task.out_col = panel * gemm.features_per_panel;
    task.num_cols = static_cast<int32_t>(
        std::min<int64_t>(gemm.features_per_panel, gemm.num_features - task.out_col));
    run(task);
  });
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
                .task = {.x = params.x.data,
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
                .task = {.x = params.x.data,
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
                .task = {.x = params.x.data,
                         .k = experts.intermediate_size(),
                         .epilogue = Epilogue::kRound,
                         .out = params.out.data,
                         .out_stride = params.out.cols,
                         .out_row = params.out_row}});
}

}  // namespace moed::kernels::cpu
