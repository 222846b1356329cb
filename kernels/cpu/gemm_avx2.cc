#include "kernels/cpu/simd_avx2.h"
//
#include "kernels/cpu/gemm_inl.h"

namespace moed::kernels::cpu {

const GemmKernels kGemmAvx2 = {
    .bf16 = RunGemm<VectorTile, uint16_t, uint16_t>,
    .f32_bf16 = RunGemm<VectorTile, float, uint16_t>,
    .f32_f32 = RunGemm<VectorTile, float, float>,
};

}  // namespace moed::kernels::cpu
