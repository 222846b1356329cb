#pragma once

#include <cstdint>

#include "kernels/cpu/cpu_context.h"
#include "kernels/cpu/packed_weights.h"
#include "kernels/params.h"

/// The ops of kernels/backend.h on CPU cores, in forward order. Shapes have been checked by
/// CpuBackend.
namespace moed::kernels::cpu {

void EmbedTokens(CpuContext& context, const PackedLinear& table, const int32_t* ids, float scale,
                 TensorView hidden);  // embedding.cc

struct RmsNormParams {
  TensorView x;
  const float* weight = nullptr;
  float eps = 0;
  TensorView out;
};
void RmsNorm(CpuContext& context, const RmsNormParams& params);  // norm.cc
void Linear(CpuContext& context, const LinearParams& params);    // gemm.cc
void PrepareQkv(CpuContext& context, const PrepareQkvParams& params,
                const KvCacheView& cache);                                   // rope.cc
void Attention(CpuContext& context, const AttentionParams& params);          // attention.cc
void Route(CpuContext& context, const RouteParams& params);                  // moe_routing.cc
void GatherRows(CpuContext& context, const GatherRowsParams& params);        // moe_permute.cc
void PlanExperts(const PlanExpertsParams& params);                           // moe_permute.cc
void ExpertsGateUp(CpuContext& context, const ExpertsGateUpParams& params);  // gemm.cc
void ExpertsDown(CpuContext& context, const ExpertsDownParams& params);      // gemm.cc
void Combine(CpuContext& context, const CombineParams& params);              // moe_permute.cc
void AddRows(CpuContext& context, const AddRowsParams& params);              // moe_permute.cc
void Sample(CpuContext& context, const SampleParams& params);                // sampling.cc

}  // namespace moed::kernels::cpu
