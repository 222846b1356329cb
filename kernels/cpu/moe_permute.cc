#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "config/base/check.h"
#include "kernels/cpu/ops.h"

namespace moed::kernels::cpu {
namespace {

/// y += a * row `row` of x.
void AddScaledRow(const RowKernels& rows, float a, const TensorView& x, int64_t row, float* y) {
  if (x.dtype == DType::kBF16) return rows.add_bf16(a, x.as<uint16_t>() + row * x.cols, x.cols, y);
  rows.add_f32(a, x.as<float>() + row * x.cols, x.cols, y);
}

}  // namespace

void PlanExperts(const PlanExpertsParams& p) {
  const int64_t num_rows = p.num_tokens * p.top_k;
  const int32_t counted_end = p.num_counted_tokens == nullptr
                                  ? p.counted_end
                                  : std::min(p.counted_end, *p.num_counted_tokens);
  std::fill_n(p.expert_offsets, p.num_slots + 1, 0);
  std::fill_n(p.tokens_per_expert, p.num_experts, 0);
  for (int64_t i = 0; i < num_rows; ++i) {
    const int32_t id = p.topk_ids[i];
    MOED_CHECK(id >= 0 && id < p.num_experts);
    ++p.expert_offsets[p.slot_of_expert[id] + 1];
    const int64_t token = i / p.top_k;
    p.tokens_per_expert[id] += token >= p.counted_begin && token < counted_end;
  }
  std::partial_sum(p.expert_offsets, p.expert_offsets + p.num_slots + 1, p.expert_offsets);
  std::vector<int32_t> next(p.expert_offsets, p.expert_offsets + p.num_slots);
  for (int64_t i = 0; i < num_rows; ++i) {
    const int32_t row = next[p.slot_of_expert[p.topk_ids[i]]]++;
    p.x_row[row] = static_cast<int32_t>(i / p.top_k);
    p.out_row[row] = static_cast<int32_t>(i);
  }
}

void GatherRows(CpuContext& context, const GatherRowsParams& p) {
  const int64_t bytes = p.out.cols * static_cast<int64_t>(SizeBytes(p.out.dtype));
  context.ForEachRow(p.out.rows, p.out.cols, [&](int64_t row, int) {
    const int64_t from = p.row_index[row];
    MOED_CHECK(from >= 0 && from < p.src.rows);
    std::memcpy(p.out.as<char>() + row * bytes, p.src.as<char>() + from * bytes, bytes);
  });
}

void Combine(CpuContext& context, const CombineParams& p) {
  const RowKernels& rows = *context.kernels().rows;
  const int64_t n = p.hidden.cols;
  context.ReserveScratch(n * static_cast<int64_t>(sizeof(float)));
  context.ForEachRow(p.hidden.rows, (p.top_k + 1) * n, [&](int64_t row, int thread) {
    float* sum = static_cast<float*>(context.Scratch(thread));
    std::memset(sum, 0, n * sizeof(float));
    for (int32_t j = 0; j < p.top_k; ++j) {
      const int64_t from = p.row_of[row * p.top_k + j];
      MOED_CHECK(from >= 0 && from < p.rows.rows);
      AddScaledRow(rows, p.topk_weights[row * p.top_k + j], p.rows, from, sum);
    }
    rows.add_f32(p.scale, sum, n, p.hidden.as<float>() + row * n);
  });
}

void AddRows(CpuContext& context, const AddRowsParams& p) {
  const RowKernels& rows = *context.kernels().rows;
  const int64_t n = p.hidden.cols;
  context.ForEachRow(p.hidden.rows, n, [&](int64_t row, int) {
    float scale = p.scale;
    if (p.gate_logits != nullptr) {
      float e;  // exp(-logit)
      const float minus_logit = -p.gate_logits[row];
      rows.exp_and_sum(&minus_logit, 0.0f, 1.0f, 1, &e);
      scale *= 1.0f / (1.0f + e);
    }
    AddScaledRow(rows, scale, p.rows, row, p.hidden.as<float>() + row * n);
  });
}

}  // namespace moed::kernels::cpu
