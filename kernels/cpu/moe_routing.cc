#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels/cpu/ops.h"

namespace moed::kernels::cpu {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

/// The router's logits made safe: NaN is -infinity, +infinity the largest float.
void CopyLogits(const float* logits, int64_t n, float* out) {
  for (int64_t e = 0; e < n; ++e) {
    out[e] = std::isnan(logits[e]) ? kMinusInfinity
                                   : std::min(logits[e], std::numeric_limits<float>::max());
  }
}

/// ids[0..k): the k best, best first; of equal ones the lower id. k <= n.
void SelectTopK(const float* logits, int64_t n, int32_t k, int32_t* ids) {
  int32_t count = 0;
  for (int64_t e = 0; e < n; ++e) {
    if (count == k && !(logits[e] > logits[ids[k - 1]])) continue;
    int32_t at = count < k ? count++ : k - 1;
    for (; at > 0 && logits[e] > logits[ids[at - 1]]; --at) ids[at] = ids[at - 1];
    ids[at] = static_cast<int32_t>(e);
  }
}

/// x = exp(x - max) of n logits; a row of nothing but -infinity counts as all equal. Returns the
/// sum.
double Exponentials(const RowKernels& rows, float max, int64_t n, float* x) {
  if (max == kMinusInfinity) {
    std::fill_n(x, n, 1.0f);
    return static_cast<double>(n);
  }
  return rows.exp_and_sum(x, max, 1.0f, n, x);
}

void Renormalize(int32_t k, float* weights) {
  float sum = 0;
  for (int32_t j = 0; j < k; ++j) sum += weights[j];
  for (int32_t j = 0; j < k; ++j) weights[j] /= sum;
}

}  // namespace

void Route(CpuContext& context, const RouteParams& p) {
  const RowKernels& rows = *context.kernels().rows;
  const int64_t num_experts = p.logits.cols;
  const int32_t k = p.top_k;
  context.ReserveScratch(num_experts * static_cast<int64_t>(sizeof(float)));
  context.ForEachRow(p.logits.rows, 8 * num_experts, [&](int64_t row, int thread) {
    float* x = static_cast<float*>(context.Scratch(thread));
    int32_t* ids = p.topk_ids + row * k;
    float* weights = p.topk_weights + row * k;
    CopyLogits(p.logits.as<float>() + row * num_experts, num_experts, x);
    SelectTopK(x, num_experts, k, ids);
    const float max = x[ids[0]];
    if (p.scoring == RouterScoring::kSoftmaxThenTopK) {
      const double sum = Exponentials(rows, max, num_experts, x);
      for (int32_t j = 0; j < k; ++j) weights[j] = static_cast<float>(x[ids[j]] / sum);
    } else {
      for (int32_t j = 0; j < k; ++j) weights[j] = x[ids[j]];
      const double sum = Exponentials(rows, max, k, weights);
      for (int32_t j = 0; j < k; ++j) weights[j] = static_cast<float>(weights[j] / sum);
    }
    if (p.renormalize) Renormalize(k, weights);
  });
}

}  // namespace moed::kernels::cpu
