#include "kernels/cpu/simd_avx512.h"
//
#include "kernels/cpu/bf16_tile_avx512bf16.h"
#include "kernels/cpu/gemm_inl.h"

namespace moed::kernels::cpu {

const GemmKernels kGemmAvx512Bf16 = {
    .bf16 = RunGemm<Bf16Tile, uint16_t, uint16_t>,
    .f32_bf16 = RunGemm<VectorTile, float, uint16_t>,
    .f32_f32 = RunGemm<VectorTile, float, float>,
};

}  // namespace moed::kernels::cpu
