#include "kernels/cpu/simd_avx512.h"
//
#include "kernels/cpu/attention_tiles_avx512bf16.h"
#include "kernels/cpu/attention_tiles_inl.h"

namespace moed::kernels::cpu {

const AttentionKernels kAttentionAvx512Bf16 = {
    .bf16_bf16 = RunAttention<Bf16Tiles, uint16_t, uint16_t>,
    .bf16_f32 = RunAttention<FloatTiles, uint16_t, float>,
    .f32_bf16 = RunAttention<FloatTiles, float, uint16_t>,
    .f32_f32 = RunAttention<FloatTiles, float, float>,
};

}  // namespace moed::kernels::cpu
