#include "kernels/cpu/simd_avx512.h"
//
#define MOED_AVX512_VNNI 1
#include "kernels/cpu/simd_int_avx512.h"
//
#include "kernels/cpu/int_gemm_inl.h"

namespace moed::kernels::cpu {

const IntGemmKernels kIntGemmAvx512Vnni = {
    .int8 = RunIntGemm<Int8Format>,
    .int4 = RunIntGemm<Int4Format>,
    .quantize = QuantizeRow,
};

}  // namespace moed::kernels::cpu
